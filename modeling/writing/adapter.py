"""LoRA adapters of models that write their answers: their shape, how they are read and saved."""

import functools
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel
from peft.utils import ModulesToSaveWrapper
from transformers.utils import is_bitsandbytes_available

from modeling.parts.loading import SHOWN_KEYS
from modeling.parts.model_files import ModelFiles
from modeling.training.arguments import WritingTrainingArguments
from modeling.writing.answering import Answering
from modeling.writing.evidence import MODULE
from processing.errors import UserError

logger = logging.getLogger(__name__)


class Base(NamedTuple):
    """What a name stands for: a whole model, or an adapter and the model under it.

    Attributes:
        model: the files of the whole model.
        own: the files of the name itself: the adapter's, or the whole model's.
        adapter: the adapter's config, whose revision is the commit of the whole model.
    """

    model: ModelFiles
    own: ModelFiles
    adapter: LoraConfig | None = None


def check_shape(
    args: WritingTrainingArguments, adapter: LoraConfig, targets: str, modules_to_save: Sequence[str] | None
) -> None:
    """Refuses another shape than that of the adapter that training goes on with.

    Args:
        args: of the run.
        adapter: its config.
        targets: the pattern of the modules that the run would add LoRA matrices to.
        modules_to_save: the modules that it would train whole.

    Raises:
        UserError: the recipe asks for it.
    """
    whole = sorted(set(adapter.modules_to_save or []) - {MODULE})
    shapes = {
        "lora_r": (args.lora_r, adapter.r),
        "lora_alpha": (args.lora_alpha, adapter.lora_alpha),
        "lora_targets": (targets, adapter.target_modules),
        "modules_to_save": (sorted(modules_to_save or []), whole),
    }
    for name, (asked, own) in shapes.items():
        if name in args.recipe and asked != own:
            value = args.recipe[name]
            shown = " ".join(value) if isinstance(value, list) else value
            raise UserError(
                f"--{name} {shown}: the adapter {args.model_name_or_path} was made with another value, which can't be "
                "changed any more. Leave the flag out, or start from the adapter's base model."
            )


def with_fp32_copies(model: PeftModel) -> PeftModel:
    """The model with what is trained whole in FP32, also over a base in half precision; PEFT sees to LoRA alone."""
    for name, parameter in model.named_parameters():
        if ".modules_to_save." in name:
            parameter.data = parameter.data.float()
    return model


def saving_adapters_alone(model: PeftModel) -> PeftModel:
    """The model, whose `save_pretrained` saves no embeddings: none are trained.

    Left to itself PEFT asks the Hub about the base's at every save.
    """
    save = functools.partial(model.save_pretrained, save_embedding_layers=False)
    model.save_pretrained = save  # type: ignore[method-assign]  # the Trainer offers no option for it
    return model


def load_adapter(model: Any, config: LoraConfig, files: ModelFiles, trainable: bool = False) -> PeftModel:
    """Puts an adapter on its base model.

    The adapter's evidence head is left out where the model is to have none. A model whose adapter has none keeps its
    own, which is a new one.

    Raises:
        UserError: it does not fit, or its weights are pickled.
    """
    files.adapter_weights()
    config.inference_mode = not trainable  # saved as True, by which PEFT would freeze all of it
    whole = config.modules_to_save or []
    evidence = getattr(model, MODULE, None)
    if evidence is None:
        config.modules_to_save = [name for name in whole if name != MODULE] or None
    try:
        peft_model = with_fp32_copies(PeftModel(model, config))  # before they are read, or they would be rounded
        loaded = peft_model.load_adapter(str(files.root), "default", is_trainable=trainable, use_safetensors=True)
        own = ("lora_", ".modules_to_save.")
        wrong = [key for key in loaded.missing_keys if any(part in key for part in own)]
        wrong += [key for key in loaded.unexpected_keys if evidence is not None or f".{MODULE}." not in key]
        if evidence is not None and MODULE not in whole:
            if not trainable:
                wrong.append(MODULE)
            config.modules_to_save = [*whole, MODULE]  # only now, as PEFT fails at a module that has no weights
            model.evidence = ModulesToSaveWrapper(model.evidence, "default")
            model.evidence.set_adapter("default")
        if wrong:  # PEFT only warns, and the base would answer
            raise ValueError(f"not in both: {', '.join(sorted(wrong)[:SHOWN_KEYS])}")
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".:")
        base = config.base_model_name_or_path
        raise UserError(f"{files.name}: this adapter does not fit its base model {base} ({reason}).") from error
    return with_fp32_copies(peft_model)


def quantization_here(files: ModelFiles, dtype: torch.dtype) -> str | None:
    """The quantization of a trained model's base, None where bitsandbytes is missing, which is said.

    Args:
        files: of the trained model.
        dtype: of the base without it.
    """
    quantization = Answering.from_pretrained(files).quantization
    if quantization is not None and not is_bitsandbytes_available():
        logger.warning(
            "%s: trained over a base in %s, which needs bitsandbytes; without it the base is in %s and answers may "
            "differ.",
            files.name,
            quantization,
            str(dtype).removeprefix("torch."),
        )
        return None
    return quantization


def frozen_dtype(args: WritingTrainingArguments) -> torch.dtype:
    """The precision of frozen weights in training."""
    if args.fp16:
        return torch.float16
    return torch.bfloat16 if args.bf16 else torch.float32


def saved_evidence(base: Base) -> dict[str, Any] | None:
    """What the config of a base is to say of the evidence head of its adapter; None for a whole model."""
    return None if base.adapter is None else {"evidence_labels": Answering.from_pretrained(base.own).evidence_labels}
