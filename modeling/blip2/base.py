"""The base model of a BLIP-2: a whole one of a folder or the Hub, or the starter."""

from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, Blip2Processor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from modeling.blip2.network import Blip2ForQuestionAnswering
from modeling.blip2.starter import Blip2StarterForQuestionAnswering
from modeling.parts.kinds import check_kind
from modeling.parts.loading import load_config, load_pretrained, load_weights, loading_errors
from modeling.parts.model_files import ModelFiles
from processing.errors import UserError

MODELS = {"blip-2": Blip2ForQuestionAnswering, "blip2_starter": Blip2StarterForQuestionAnswering}
SUGGESTION = "Salesforce/blip2-opt-2.7b"
ANSWERING = ("Blip2ForConditionalGeneration", *(model.__name__ for model in MODELS.values()))  # classes that write
SCALED_LOGITS = ("logits_scaling", "logit_scale", "final_logit_softcapping")


def check_base_kind(files: ModelFiles) -> None:
    """Refuses by its config.json what is no BLIP-2 that answers, before weights are fetched.

    Raises:
        UserError: it is something else.
    """
    check_kind(files, "blip2", ANSWERING, SUGGESTION)


def load_base(
    files: ModelFiles, dtype: torch.dtype, quantization: str | None = None, read_pickled: bool = False
) -> tuple[Blip2ForQuestionAnswering, Blip2Processor]:
    """Loads a whole model and its processor.

    Args:
        files: of the model.
        dtype: of the frozen weights.
        quantization: 4bit or 8bit.
        read_pickled: as in `ModelFiles.weights`.

    Raises:
        UserError: it can't be loaded.
    """
    name = files.name
    with loading_errors(name):
        config = load_config(files.root)
        model_class = MODELS[config.model_type]
        options = _quantization(quantization)
        model, _ = load_weights(model_class, config, files, dtype, read_pickled=read_pickled, **options)
        tokenizer = load_pretrained(AutoTokenizer, files.root, padding_side="left")
        image_processor = load_pretrained(BlipImageProcessorPil, files.root)
        processor = Blip2Processor(image_processor, tokenizer, config.num_query_tokens)
    if any(getattr(config.text_config, option, None) for option in SCALED_LOGITS):
        raise UserError(f"{name}: its language model scales logits, which is not supported.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, processor


def _quantization(bits: str | None) -> dict[str, Any]:
    if bits is None:
        return {}
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise UserError(f"--quantization {bits}: needs bitsandbytes; pip install bitsandbytes.") from error
    config = transformers.BitsAndBytesConfig(load_in_4bit=bits == "4bit", load_in_8bit=bits == "8bit")
    return {"quantization_config": config}
