"""The packages that a Space installs."""

import configparser
import re
from pathlib import Path

from modeling.parts.efficientnet import NETWORK_PACKAGE
from processing.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
PLATFORMS = {"docker": {"streamlit", "plotly", "reportlab"}, "gradio": {"gradio", "mcp", "reportlab"}}
ONLY_TRAINING = {"evaluate", "shtab", "tensorboard"}  # of what setup.cfg requires
LOCK = Path(__file__).with_name("requirements.lock")  # for docker, written by spaces_app.lock
STARTER = "# Only for starters with a language model:"  # in the lock
CPU_TORCH = "--extra-index-url https://download.pytorch.org/whl/cpu"  # for docker; ZeroGPU wants the CUDA one


def requirements(sdk: str, needs_starter: bool = False) -> str:
    """The requirements.txt of a Space: the packages of setup.cfg that answering needs, as constraints.txt pins them.

    For docker it is the lock: all packages, with hashes. A Gradio Space can't have hashes, because the Hub installs
    packages of its own by the same command without them.

    Args:
        sdk: docker or gradio.
        needs_starter: with the parts of a starter that has a language model.

    Raises:
        UserError: this is no checkout of the project.
    """
    if sdk == "docker":
        base, _, starter = _read(LOCK).partition(f"{STARTER}\n")
        return base + starter if needs_starter else base
    versions = dict(re.findall(r"^([\w.-]+)==(\S+)$", _read(ROOT / "constraints.txt"), re.MULTILINE))
    pins = {_normal(name): f"{name}=={version}" for name, version in versions.items()}
    return "".join(f"{pins[name]}\n" for name in sorted(needed_packages(sdk, needs_starter)))


def needed_packages(sdk: str, needs_starter: bool) -> set[str]:
    """The packages of setup.cfg that an app needs to answer, without versions; arguments as for `requirements`."""
    setup = read_setup()
    extras = setup["options.extras_require"]
    # what SmolVLM's processor needs is so small that every Space has it
    lines = [*setup["options"]["install_requires"].splitlines(), *extras["smolvlm"].splitlines()]
    if needs_starter:
        lines += extras["starter"].splitlines()
    else:
        lines.append(NETWORK_PACKAGE)
    names = {_normal(re.split(r"[\s<>=!~\[]", line)[0]) for line in lines if line.strip()}
    return names - ONLY_TRAINING | PLATFORMS[sdk]


def read_setup() -> configparser.ConfigParser:
    """The content of setup.cfg.

    Raises:
        UserError: this is no checkout of the project.
    """
    setup = configparser.ConfigParser()
    setup.read_string(_read(ROOT / "setup.cfg"))
    return setup


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: can't be read; publish from a checkout of the project.") from error
