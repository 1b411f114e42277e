"""Publishes an app as a Space of the Hub, where it asks a published model.

    python -m spaces_app.publish --space user/medical-vqa --model user/name [--sdk docker|gradio] [--private]

docker runs the Streamlit app, gradio the Gradio app (also on ZeroGPU). The Space gets the packages that answer, the
app, and requirements pinned as in constraints.txt, for docker with their hashes, in one commit. Exit status 1:
something to mend before the push; 3: the push failed, and the Space has nothing of it.
"""

import argparse
import configparser
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import SpaceCardData

from modeling import blip2, vilt
from modeling.hub.client import (
    FAILURES,
    Destination,
    PublishError,
    check_access,
    find_model,
    push_files,
    reason,
    unreachable,
    with_patience,
)
from modeling.parts.efficientnet import NETWORK_PACKAGE
from processing.errors import UserError, run_command
from processing.images import MAX_IMAGE_BYTES

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = Path(__file__).with_name("templates")
PACKAGES = ("metrics", "modeling", "processing", "spaces_app")
APPS = {"docker": "app.py", "gradio": "gradio_app.py"}
PLATFORMS = {"docker": "streamlit", "gradio": "gradio"}
PYTHON = "3.12"  # of a Gradio Space; ZeroGPU offers few versions
ONLY_TRAINING = {"evaluate", "tensorboard"}  # of what setup.cfg requires
CONFIG = "spaces_app/.streamlit/config.toml"
LOCK = Path(__file__).with_name("requirements.lock")  # of docker, by spaces_app.lock
STARTER = "# Only for the BLIP-2 starter:"  # in the lock
CPU_TORCH = "--extra-index-url https://download.pytorch.org/whl/cpu"  # for docker; ZeroGPU wants the CUDA one
OURS = (*(f"{package}/*" for package in PACKAGES), "app.py", "Dockerfile", "constraints.txt", "requirements.txt")
MESSAGE = "Publish an app of Medical-VQA"


@dataclass(frozen=True)
class Model:
    """What a Space has to know of its model.

    Attributes:
        id: on the Hub.
        private: needs a token to be loaded.
        large: a BLIP-2, which fits a free Space's memory in bfloat16 only.
        needs_starter: is an adapter over the BLIP-2 starter.
        datasets: as its card states them.
    """

    id: str
    private: bool
    large: bool
    needs_starter: bool
    datasets: list[str]


def preflight(destination: Destination, model: str) -> Model:
    """Checks all that the push of a Space needs, without changing anything.

    Raises:
        UserError: the token, the permission, the Space's name or the model is wrong.
    """
    check_access(destination)
    info = find_model(destination, "--model", model)
    names = {file.rfilename for file in info.siblings or []}
    file = "adapter_config.json" if "adapter_config.json" in names else "config.json"
    config = {}
    if file in names:
        try:
            config = json.loads(Path(with_patience(lambda: destination.api.hf_hub_download(model, file))).read_text())
        except FAILURES as error:
            raise unreachable(model, error) from error
    kind = "adapter" if file == "adapter_config.json" else config.get("model_type")
    if kind not in ("adapter", *vilt.MODELS, *blip2.MODELS) or not any(n.endswith(".safetensors") for n in names):
        raise UserError(
            f"--model {model}: it holds no ViLT, starter or BLIP-2 as safetensors; publish one with "
            "`python -m modeling.publish`."
        )
    needs_starter = config.get("base_model_name_or_path") == "starter"
    if needs_starter and destination.space_sdk == "gradio":
        raise UserError(
            f"--model {model}: the language model of its base is in a package that a Gradio Space can't install; "
            "choose --sdk docker."
        )
    datasets = (info.card_data and info.card_data.datasets) or []
    datasets = [datasets] if isinstance(datasets, str) else datasets
    large = kind == "blip-2" or (kind == "adapter" and not needs_starter)
    return Model(model, bool(info.private or info.gated), large, needs_starter, datasets)


def publish(destination: Destination, model: Model) -> str:
    """Pushes a Space in one commit; what is there already stays as it is, and what a former push left goes.

    Returns:
        The address of the Space.

    Raises:
        UserError: this is no checkout of the project.
        PublishError: the push failed; nothing of it is on the Hub.
    """
    files = dict(_files(destination, model))
    logger.info("Pushing %d files to %s.", len(files), destination.url)
    try:
        push_files(files, destination, MESSAGE, OURS)
    except FAILURES as error:
        raise PublishError(
            f"{destination.repo_id}: the push failed ({reason(error)}), so nothing of it is there; go on with "
            f"`{_command(destination, model)}`."
        ) from error
    logger.info("Published: %s", destination.url)
    if model.private:
        logger.warning(
            "%s is not public: add a secret HF_TOKEN with a token that may read it at %s/settings, or the Space can't "
            "load it.",
            *(model.id, destination.url),
        )
    return destination.url


def requirements(sdk: str, needs_starter: bool = False) -> str:
    """The requirements.txt of a Space: what setup.cfg asks for to answer, in the versions of constraints.txt.

    For docker it is the lock: all packages, with hashes. A Gradio Space can't have these, since the Hub installs its
    own packages, without hashes, by the same command.

    Args:
        sdk: docker or gradio.
        needs_starter: with the parts of the BLIP-2 starter.

    Raises:
        UserError: this is no checkout of the project.
    """
    if sdk == "docker":
        base, _, starter = _read(LOCK).partition(f"{STARTER}\n")
        return base + starter * needs_starter
    versions = dict(re.findall(r"^([\w.-]+)==(\S+)$", _read(ROOT / "constraints.txt"), re.MULTILINE))
    pins = {_normal(name): f"{name}=={version}" for name, version in versions.items()}
    return "".join(f"{pins[name]}\n" for name in sorted(needed_packages(sdk, needs_starter)))


def needed_packages(sdk: str, needs_starter: bool) -> set[str]:
    """The packages that setup.cfg asks for to answer by an app, without versions; arguments as `requirements`."""
    setup = _setup()
    lines = setup["options"]["install_requires"].split("\n")
    lines += setup["options.extras_require"]["starter"].split("\n") if needs_starter else [NETWORK_PACKAGE]
    names = {_normal(re.split(r"[\s<>=!~\[]", line)[0]) for line in lines if line.strip()}
    return {*names - ONLY_TRAINING, PLATFORMS[sdk]}


def _files(destination: Destination, model: Model) -> Iterator[tuple[str, Path | bytes]]:
    """What goes up: name in the repo and content. A list of what may, so that nothing else ever does."""
    sdk = destination.space_sdk or ""
    others = {"publish.py", "lock.py", *(app for other, app in APPS.items() if other != sdk)}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if package != "spaces_app" or (path.name not in others and path.parent.name == package):
                yield path.relative_to(ROOT).as_posix(), path
    if sdk == "docker":
        yield CONFIG, ROOT / CONFIG
    yield "requirements.txt", requirements(sdk, model.needs_starter).encode()
    for name in ("README.md", "Dockerfile" if sdk == "docker" else "app.py"):
        yield name, _render(name, destination, model)


def _render(name: str, destination: Destination, model: Model) -> bytes:
    """A file from its template."""
    sdk = destination.space_sdk
    platform: dict[str, Any] = {"app_port": 8501}
    if sdk == "gradio":
        [version] = re.findall(r"^gradio==(.+)$", requirements(sdk), re.MULTILINE)
        platform = {"sdk_version": version, "python_version": PYTHON, "app_file": "app.py"}
    card_data = SpaceCardData(
        title="Medical VQA",
        emoji="🩻",
        colorFrom="blue",
        colorTo="indigo",
        sdk=sdk,
        **platform,
        license="apache-2.0",
        pinned=False,
        short_description="Ask a question about a medical image",
        models=[model.id],
        datasets=model.datasets or None,
        preload_from_hub=None if model.private else [model.id],  # a build has no token
        # half an hour, the default, is short for the download of a BLIP-2's base
        startup_duration_timeout="1h" if model.large else None,
    )
    # Markdown and a Dockerfile are no HTML
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)  # nosec B701
    text = environment.from_string((TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")).render(
        card_data=card_data.to_yaml(),
        sdk=sdk,
        space=destination.repo_id,
        endpoint=destination.api.endpoint,
        model=model.id,
        private=model.private,
        large=model.large,
        packages=PACKAGES,
        megabytes=MAX_IMAGE_BYTES // 2**20,
        command=_command(destination, model),
        version=_setup()["metadata"]["version"],
    )
    return text.encode()


def _command(destination: Destination, model: Model) -> str:
    command = f"python -m spaces_app.publish --space {destination.repo_id} --model {model.id}"
    return f"{command} --sdk {destination.space_sdk}" + " --private" * destination.private


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _setup() -> configparser.ConfigParser:
    setup = configparser.ConfigParser()
    setup.read_string(_read(ROOT / "setup.cfg"))
    return setup


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: can't be read; publish from a checkout of the project.") from error


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m spaces_app.publish", description="Publishes an app as a Space.")
    parser.add_argument("--space", required=True, help="user/name of the Space; made where there is none")
    parser.add_argument("--model", required=True, help="user/name of the model on the Hub that it asks")
    parser.add_argument("--sdk", choices=APPS, default="docker", help="docker: Streamlit (default); gradio: Gradio")
    parser.add_argument("--private", action="store_true", help="a new Space is private")
    options = parser.parse_args(argv)
    destination = Destination(options.space, options.private, space_sdk=options.sdk)
    publish(destination, preflight(destination, options.model))


if __name__ == "__main__":
    run_command(main)
