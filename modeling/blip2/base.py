"""The base model of a BLIP-2: a whole one of a folder or the Hub, or the starter."""

from contextlib import nullcontext
from typing import Any

import torch
from transformers import AutoTokenizer, Blip2Processor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from modeling.blip2.network import Blip2ForQuestionAnswering
from modeling.blip2.starter import Blip2StarterForQuestionAnswering, DetectingEvidenceHead
from modeling.parts.kinds import check_kind
from modeling.parts.loading import load_config, load_pretrained, load_weights, loading_errors, no_report_of_weights
from modeling.parts.model_files import ModelFiles
from modeling.parts.quantization import let_gradients_through, quantization_options
from modeling.writing.evidence import MODULE, WEIGHTS, label_vectors
from processing.errors import UserError

MODELS = {"blip-2": Blip2ForQuestionAnswering, "blip2_starter": Blip2StarterForQuestionAnswering}
SUGGESTION = "Salesforce/blip2-opt-2.7b"
ANSWERING = ("Blip2ForConditionalGeneration", *(model.__name__ for model in MODELS.values()))  # classes that write
# What is trained or small, and what scores the vocabulary.
UNQUANTIZED = ["qformer", "language_projection", "lm_head", MODULE]
SCALED_LOGITS = ("logits_scaling", "logit_scale", "final_logit_softcapping")


def check_base_kind(files: ModelFiles) -> None:
    """Refuses by its config.json what is no BLIP-2 that answers, before weights are fetched.

    Raises:
        UserError: it is something else.
    """
    check_kind(files, "blip2", ANSWERING, SUGGESTION)


def load_base(
    files: ModelFiles,
    dtype: torch.dtype,
    quantization: str | None = None,
    read_pickled: bool = False,
    evidence: dict[str, Any] | None = None,
) -> tuple[Blip2ForQuestionAnswering, Blip2Processor]:
    """Loads a whole model and its processor.

    Args:
        files: of the model.
        dtype: of the frozen weights.
        quantization: 4bit or 8bit.
        read_pickled: as in `ModelFiles.weights`.
        evidence: what its config is to say of an evidence head. The model's own head stays where it has one, and a
            new one is made where it has none. By default the config keeps what it says.

    Raises:
        UserError: it can't be loaded.
    """
    name = files.name
    with loading_errors(name):
        config = load_config(files.root)
        model_class = MODELS[config.model_type]
        options = quantization_options(quantization, dtype, UNQUANTIZED)
        if evidence is not None:
            config.update(evidence)
            options |= {"new": WEIGHTS, "ignored": WEIGHTS}
        with nullcontext() if evidence is None else no_report_of_weights():
            model, _ = load_weights(model_class, config, files, dtype, read_pickled=read_pickled, **options)
        let_gradients_through(model)
        tokenizer = load_pretrained(AutoTokenizer, files.root, padding_side="left")
        image_processor = load_pretrained(BlipImageProcessorPil, files.root)
        processor = Blip2Processor(image_processor, tokenizer, config.num_query_tokens)
        if isinstance(model.evidence, DetectingEvidenceHead):
            model.evidence.labels = label_vectors(model, tokenizer)
    if dtype == torch.bfloat16 and not torch.accelerator.is_available():
        model.language_model.set_attn_implementation("eager")  # PyTorch's own takes three times as long there
    if any(getattr(config.text_config, option, None) for option in SCALED_LOGITS):
        raise UserError(f"{name}: its language model scales logits, which is not supported.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, processor


def max_length(model: Any) -> int | None:
    """How many tokens the language model can read and write after an image; None where its positions are relative."""
    places = getattr(model.config.text_config, "max_position_embeddings", None)
    taken = model.config.num_query_tokens + getattr(model.config, "text_token_first", False)
    return None if places is None else places - taken


def is_encoder_decoder(files: ModelFiles) -> bool:
    """Whether the language model of a whole BLIP-2 is one, as Flan-T5 is.

    Raises:
        UserError: its config can't be loaded.
    """
    with loading_errors(files.name):
        config = load_config(files.root)
    return not getattr(config, "use_decoder_only_language_model", True)
