"""What kind of model a config.json names, told before any weights are fetched."""

import inspect
from collections.abc import Collection

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from modeling.parts.model_files import ADAPTER_CONFIG, ModelFiles
from processing.errors import UserError, quoted

CHAT_MODELS = ("smolvlm", "idefics3", "gemma3", "qwen2_5_vl", "qwen3_vl", "internvl", "llava", "llava_onevision")
KEPT_FEATURES = "mm_encoder_outputs"  # the argument in which transformers takes features of images instead of pixels
FAMILY_OF = {"vilt": "vilt", "vilt_starter": "vilt", "blip-2": "blip2", "blip2_starter": "blip2"}  # by `model_type`
FAMILY_OF |= dict.fromkeys(CHAT_MODELS, "vlm")
QUESTION_READERS = ("instructblip", "instructblipvideo", "paligemma")  # what these see depends on the question
TITLES = {"vilt": "a ViLT", "blip2": "a BLIP-2", "vlm": "an image-text-to-text"}
WANTED = {"vilt": "ViLT", "blip2": "BLIP-2", "vlm": f"one of {', '.join(CHAT_MODELS)}"}
ANSWERING_FILE = "answering.json"  # says the family of an adapter


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


def family_of(model_type: str) -> str | None:
    """The family of a model by its `model_type`, None for none. Every chat model that takes kept features is a vlm."""
    names = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(model_type)
    if model_type in FAMILY_OF or names is None:
        return FAMILY_OF.get(model_type)
    if model_type in QUESTION_READERS or model_type not in PROCESSOR_MAPPING_NAMES:
        return None
    own_class = getattr(transformers, names if isinstance(names, str) else names[0])
    return "vlm" if KEPT_FEATURES in inspect.signature(own_class.forward).parameters else None


def find_family(files: ModelFiles) -> str:
    """The family of a model to ask, as `modeling.families.FAMILIES` names it.

    Raises:
        UserError: it is of none.
    """
    if files.find(ADAPTER_CONFIG) is not None:
        try:
            family = (files.read_json(ANSWERING_FILE) or {}).get("family") or "blip2"
        except UserError:  # whoever reads the file says what is wrong with it
            family = "blip2"
        if family not in TITLES:
            raise UserError(
                f"{files.name}: an adapter of the family {quoted(family)}, which this version doesn't know."
            )
        return str(family)
    model_type, _ = read_kind(files)
    family_or_none = family_of(model_type)
    if family_or_none is None:
        raise UserError(
            f"{files.name}: a model of type {quoted(model_type)}; choose a ViLT, a starter, a BLIP-2 or a model of "
            f"images and text ({', '.join(CHAT_MODELS)})."
        )
    return family_or_none


def check_kind(files: ModelFiles, family: str, architectures: Collection[str], suggestion: str) -> None:
    """Refuses a model that is not of a family, or of a class that does not fit.

    Args:
        files: of the model.
        family: as `modeling.families.FAMILIES` names it.
        architectures: the classes of transformers, or ours, that fit. Where none are given all do, and a
            config that names none is taken.
        suggestion: a model that would do.

    Raises:
        UserError: it does not fit.
    """
    files.check_whole()
    model_type, named = read_kind(files)
    own = family_of(model_type)
    if own is None:
        raise UserError(
            f"{files.name}: a model of type {quoted(model_type)}, not {WANTED[family]}; choose {suggestion}."
        )
    if own != family:
        raise UserError(f"{files.name}: {TITLES[own]} model, not {WANTED[family]}; add --model_type {own}.")
    if named and architectures and not set(named) & set(architectures):
        raise UserError(f"{files.name}: a {quoted(named[0])}, which can't answer; choose {suggestion}.")
