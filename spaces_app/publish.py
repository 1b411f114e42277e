"""Publishes an app as a Space of the Hub, where it asks a published model.

    python -m spaces_app.publish --space user/medical-vqa --model user/name [--sdk docker|gradio] [--private]

docker runs the Streamlit app, gradio the Gradio app (also on ZeroGPU). One commit brings the Space the packages that
answer, the app, and requirements pinned as in constraints.txt, for docker with their hashes. Exit status 1: something
must be mended before the push; 3: the push failed, and the Space has nothing of it.
"""

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import ModelInfo, SpaceCardData

from modeling.hub.client import (
    PUSH_ERRORS,
    Destination,
    PublishError,
    check_access,
    find_model,
    push_files,
    unreachable,
)
from modeling.hub.retries import reason, with_retries
from modeling.parts.kinds import family_of
from processing.command_line import CommandParser
from processing.errors import UserError, run_command
from processing.images import MAX_IMAGE_BYTES
from spaces_app.content import BURNT_IN, KEPT, PRIVACY
from spaces_app.limits import QUESTIONS
from spaces_app.requirements import ROOT, read_setup, requirements

logger = logging.getLogger(__name__)

TEMPLATES = Path(__file__).with_name("templates")
PACKAGES = ("metrics", "modeling", "processing", "spaces_app")
APPS = {  # the files of spaces_app that only one of the apps needs
    "docker": {
        "app.py",
        "answers.py",
        "batch.py",
        "batch_page.py",
        "choosing.py",
        "corrections.py",
        "models.py",
        "page.py",
        "pictures.py",
        "take_home.py",
        "viewing.py",
        "visits.py",
        "zoom.py",
    },
    "gradio": {
        "gradio_app.py",
        "gradio_mcp.py",
        "gradio_page.py",
        "gradio_report.py",
        "gradio_routes.py",
        "gradio_view.py",
    },
}
NOT_PUBLISHED = {"command_line.py", "publish.py", "lock.py", "requirements.py"}  # of spaces_app
PYTHON = "3.12"  # of a Gradio Space; ZeroGPU offers few versions
CONFIG = "spaces_app/.streamlit/config.toml"
OURS = (*(f"{package}/*" for package in PACKAGES), "app.py", "Dockerfile", "constraints.txt", "requirements.txt")
FREE_PARAMETERS = 3e9  # in float32 they take 12 GB of the 16 GB of a free Space
MESSAGE = "Publish an app of Medical-VQA"


@dataclass(frozen=True)
class Model:
    """What a Space has to know of its model.

    Attributes:
        id: on the Hub.
        closed: itself and its base, those of them that a token is needed for.
        large: fits a free Space's memory in bfloat16 only.
        needs_starter: is an adapter over a starter, whose language model is in a package.
        datasets: as its card states them.
    """

    id: str
    closed: list[str]
    large: bool
    needs_starter: bool
    datasets: list[str]


def preflight(destination: Destination, model: str) -> Model:
    """Checks all that the push of a Space needs. Nothing is changed.

    Raises:
        UserError: the token, the permission, the Space's name or the model is wrong.
    """
    check_access(destination)
    info = find_model(destination, "--model", model)
    names = {file.rfilename for file in info.siblings or []}
    is_adapter = "adapter_config.json" in names
    config = _read_config(destination, model, names)
    family = family_of(str(config.get("model_type")))
    has_weights = any(name.endswith(".safetensors") for name in names)
    if not has_weights or not (is_adapter or family):
        raise UserError(
            f"--model {model}: this is no ViLT, BLIP-2, image-text-to-text model or starter with safetensors weights; "
            "publish one with `python -m modeling.publish`."
        )
    base = str(config.get("base_model_name_or_path")) if is_adapter else model
    needs_starter = base == "starter"
    if needs_starter and destination.space_sdk == "gradio":
        raise UserError(
            f"--model {model}: the language model of its base is in a package that a Gradio Space can't install; "
            "choose --sdk docker."
        )
    repos = {model: info}
    if is_adapter and not needs_starter:
        repos[base] = find_model(destination, f"--model {model}, an adapter over", base)
    datasets = info.card_data.datasets if info.card_data else None
    return Model(
        id=model,
        closed=[name for name, repo in repos.items() if repo.private or repo.gated],
        large=not needs_starter and family != "vilt" and _is_large(repos[base]),
        needs_starter=needs_starter,
        datasets=[datasets] if isinstance(datasets, str) else list(datasets or []),
    )


def _read_config(destination: Destination, model: str, names: set[str]) -> dict[str, Any]:
    """The config of an adapter or else of a model on the Hub, empty where it has neither."""
    file = "adapter_config.json" if "adapter_config.json" in names else "config.json"
    if file not in names:
        return {}
    try:
        path = with_retries(lambda: destination.api.hf_hub_download(model, file))
        return json.loads(Path(path).read_text())
    except PUSH_ERRORS as error:
        raise unreachable(model, error) from error


def _is_large(info: ModelInfo) -> bool:
    """Whether a model has more parameters than fit in float32; also where the Hub has not counted them."""
    return info.safetensors is None or info.safetensors.total > FREE_PARAMETERS


def publish(destination: Destination, model: Model) -> str:
    """Pushes a Space in one commit. Files of an earlier push that are no longer needed go, others of the user stay.

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
    except PUSH_ERRORS as error:
        raise PublishError(
            f"{destination.repo_id}: the push failed ({reason(error)}) and changed nothing; try again with "
            f"`{_command(destination, model)}`."
        ) from error
    logger.info("Published: %s", destination.url)
    for name in model.closed:
        logger.warning(
            "%s is not public: add a secret HF_TOKEN with a token that may read it at %s/settings, or the Space can't "
            "load it.",
            name,
            destination.url,
        )
    return destination.url


def _files(destination: Destination, model: Model) -> Iterator[tuple[str, Path | bytes]]:
    """What is pushed, and nothing else: name in the repo and content."""
    sdk = destination.space_sdk or ""
    other_apps = {name for other, names in APPS.items() if other != sdk for name in names}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.parent != ROOT / "spaces_app" or path.name not in NOT_PUBLISHED | other_apps:
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
        preload_from_hub=None if model.id in model.closed else [model.id],  # a build has no token
        # half an hour, the default, is short for the download of a large base
        startup_duration_timeout="1h" if model.large else None,
    )
    # Markdown and a Dockerfile are not HTML, so nothing is escaped
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)  # nosec B701
    text = environment.from_string((TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")).render(
        card_data=card_data.to_yaml(),
        sdk=sdk,
        space=destination.repo_id,
        endpoint=destination.api.endpoint,
        model=model.id,
        closed=model.closed,
        large=model.large,
        packages=PACKAGES,
        burnt_in=BURNT_IN,
        kept=KEPT if sdk == "gradio" else PRIVACY,
        questions=QUESTIONS.amount,
        megabytes=MAX_IMAGE_BYTES // 2**20,
        command=_command(destination, model),
        version=read_setup()["metadata"]["version"],
    )
    return text.encode()


def _command(destination: Destination, model: Model) -> str:
    """The command line that pushes the same."""
    command = f"python -m spaces_app.publish --space {destination.repo_id} --model {model.id}"
    command += f" --sdk {destination.space_sdk}"
    return f"{command} --private" if destination.private else command


def main(argv: list[str]) -> None:
    """The command line."""
    parser = CommandParser("python -m spaces_app.publish", description="Publishes an app as a Space.")
    parser.add_argument("--space", required=True, help="user/name of the Space; made where there is none")
    parser.add_argument("--model", required=True, help="user/name of the model on the Hub that it asks")
    parser.add_argument(
        "--sdk", choices=list(APPS), default="docker", help="docker: Streamlit (default); gradio: Gradio"
    )
    parser.add_argument("--private", action="store_true", help="a new Space is private")
    options = parser.parse(argv)
    destination = Destination(options.space, options.private, space_sdk=options.sdk)
    publish(destination, preflight(destination, options.model))


if __name__ == "__main__":
    run_command(main)
