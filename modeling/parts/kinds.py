"""What kind of model a config.json names, told before any weights are fetched."""

from collections.abc import Collection

from modeling.parts.model_files import ADAPTER_CONFIG, ModelFiles
from processing.errors import UserError, quoted

FAMILY_OF = {"vilt": "vilt", "vilt_starter": "vilt", "blip-2": "blip2", "blip2_starter": "blip2"}  # by `model_type`
TITLES = {"vilt": "ViLT", "blip2": "BLIP-2"}


def read_kind(files: ModelFiles) -> tuple[str, list[str]]:
    """The `model_type` and the `architectures` of a model's config.json.

    Raises:
        UserError: there is none, it is damaged, or it asks for code of the repo.
    """
    config = files.read_json("config.json")
    if config is None:
        raise UserError(f"{files.name}: there is no model (no config.json); name the folder or the Hub id of one.")
    if config.get("auto_map"):
        raise UserError(f"{files.name}: it needs code of its own, which is never run; choose another model.")
    model_type, architectures = config.get("model_type"), config.get("architectures") or []
    if not isinstance(model_type, str) or not isinstance(architectures, list):
        raise UserError(f"{files.name}: its config.json is damaged; save or download the model again.")
    return model_type, [str(name) for name in architectures]


def find_family(files: ModelFiles) -> str:
    """The family of a model to ask: `vilt` or `blip2`.

    Raises:
        UserError: it is of neither.
    """
    if files.find(ADAPTER_CONFIG) is not None:
        return "blip2"
    model_type, _ = read_kind(files)
    if model_type not in FAMILY_OF:
        raise UserError(f"{files.name}: a model of type {quoted(model_type)}; choose a ViLT, a starter or a BLIP-2.")
    return FAMILY_OF[model_type]


def check_kind(files: ModelFiles, family: str, architectures: Collection[str], suggestion: str) -> None:
    """Refuses a model that is not of a family, or of a class that does not fit.

    Args:
        files: of the model.
        family: `vilt` or `blip2`.
        architectures: the classes of transformers, or ours, that fit. A config that names none is taken.
        suggestion: a model that would do.

    Raises:
        UserError: it does not fit.
    """
    files.check_whole()
    model_type, named = read_kind(files)
    own = FAMILY_OF.get(model_type)
    if own is None:
        raise UserError(
            f"{files.name}: a model of type {quoted(model_type)}, not {TITLES[family]}; choose {suggestion}."
        )
    if own != family:
        raise UserError(f"{files.name}: a {TITLES[own]} model, not {TITLES[family]}; add --model_type {own}.")
    if named and not set(named) & set(architectures):
        raise UserError(f"{files.name}: a {quoted(named[0])}, which can't answer; choose {suggestion}.")
