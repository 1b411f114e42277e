"""The base model of a BLIP-2, and the LoRA adapter on it."""

import functools
import logging
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoTokenizer, Blip2Processor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from modeling.blip2.answering import Answering
from modeling.blip2.network import Blip2ForQuestionAnswering
from modeling.blip2.starter import Blip2StarterForQuestionAnswering, blip2_starter_checkpoint
from modeling.training.arguments import Blip2TrainingArguments
from processing.errors import UserError

logger = logging.getLogger(__name__)

QFORMER = r"qformer\.encoder\.layer\.\d+\."

LORA_TARGETS = {
    "attention": QFORMER + r"(attention|crossattention)\.attention\.(query|key|value)",
    "dense": QFORMER + r".*\.dense",
    "projection": r"language_projection",
    "language_model": r"language_model\..*\.(q_proj|k_proj|v_proj|o_proj|out_proj|q|k|v|o|fc1|fc2"
    r"|gate_proj|up_proj|down_proj|wi|wi_0|wi_1|wo)",
}

MODELS = {"blip-2": Blip2ForQuestionAnswering, "blip2_starter": Blip2StarterForQuestionAnswering}


def build_model(args: Blip2TrainingArguments, dataset: datasets.DatasetDict) -> tuple[PeftModel, Blip2Processor]:
    """Loads the base model, puts a new adapter on it or the one of the folder, and its processor.

    A new adapter changes nothing, so a folder without one, a merged model for instance, is evaluated as it is.

    Raises:
        UserError: the checkpoint can't be loaded or is no BLIP-2, or the adapter does not fit its base.
    """
    name = args.model_name_or_path
    with args.main_process_first(desc="finding the base model"):
        base, adapter = find_base(name)
    model, processor = load_base(base, dtype_of(args), adapter and adapter.revision, args.quantization)
    if args.alignment_epochs and not isinstance(model, Blip2StarterForQuestionAnswering):
        raise UserError(f"--alignment_epochs: {name} is aligned already; only the starter needs it.")
    if name != "starter" and "prompt" not in args.recipe:
        args.prompt = Answering.of(name).prompt
    if adapter is None:
        config = LoraConfig(
            r=args.lora_r,
            lora_alpha=args.lora_alpha,
            lora_dropout=args.lora_dropout,
            target_modules="|".join(rf".*{LORA_TARGETS[target]}" for target in args.lora_targets),
            modules_to_save=args.modules_to_save,
        )
        if name == "starter":  # PEFT writes down the name, which is that of the cache folder
            config.revision, model.name_or_path = Path(model.name_or_path).name, name
        peft_model = get_peft_model(model, config)
    else:
        peft_model = load_adapter(model, adapter, name, args.do_train)
    # No embeddings are trained; left to itself PEFT asks the Hub about the base's at every save.
    save = functools.partial(peft_model.save_pretrained, save_embedding_layers=False)
    peft_model.save_pretrained = save  # type: ignore[method-assign]
    _report_trained(peft_model)
    return peft_model, processor


def find_base(name: str) -> tuple[str, PeftConfig | None]:
    """The name of the base model under an adapter and the adapter's config; without one the name itself and None.

    Raises:
        UserError: it is an adapter to a starter that this version does not assemble.
    """
    adapter = None if name == "starter" else _adapter_config(name)
    base = name if adapter is None else str(adapter.base_model_name_or_path)
    if base == "starter":
        folder = blip2_starter_checkpoint()
        if adapter is not None and adapter.revision != folder.name:
            raise UserError(
                f"{name}: this adapter does not fit its base model (trained on {adapter.revision}, this version "
                f"assembles {folder.name}); install the version of the project that trained it."
            )
        base = str(folder)
    return base, adapter


def load_adapter(model: nn.Module, config: PeftConfig, name: str, trainable: bool = False) -> PeftModel:
    """Puts the adapter of a folder or Hub id on its base model.

    Raises:
        UserError: it does not fit.
    """
    try:
        peft_model = PeftModel(model, config)
        loaded = peft_model.load_adapter(name, "default", is_trainable=trainable, use_safetensors=True)
        own = ("lora_", ".modules_to_save.")
        wrong = [key for key in loaded.missing_keys if any(part in key for part in own)] + list(loaded.unexpected_keys)
        if wrong:  # PEFT only warns, and the answers would be those of the base
            raise ValueError(f"{wrong[0]} is not in both")
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".:")
        base = config.base_model_name_or_path
        raise UserError(f"{name}: this adapter does not fit its base model {base} ({reason}).") from error
    return peft_model


def _adapter_config(name: str) -> PeftConfig | None:
    try:
        return PeftConfig.from_pretrained(name)
    except (ValueError, OSError):  # there is none: a whole model
        return None


def dtype_of(args: Blip2TrainingArguments) -> torch.dtype:
    return torch.float16 if args.fp16 else torch.bfloat16 if args.bf16 else torch.float32


def load_base(
    name: str, dtype: torch.dtype, revision: str | None = None, quantization: str | None = None
) -> tuple[Blip2ForQuestionAnswering, Blip2Processor]:
    """Loads a whole model and its processor.

    Args:
        name: a folder or a Hub id.
        dtype: of the frozen weights.
        revision: of a Hub id; by default main.
        quantization: 4bit or 8bit.

    Raises:
        UserError: it can't be loaded or is no BLIP-2 that answers.
    """
    load: dict[str, Any] = {"revision": revision or "main"}
    try:
        config = AutoConfig.from_pretrained(name, **load)
        if config.model_type not in MODELS:
            raise UserError(f"{name}: a {config.model_type} model, not BLIP-2; choose another.")
        model, report = MODELS[config.model_type].from_pretrained(
            name,
            **load,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **_quantization(quantization),
        )
        if any(key.startswith("language_model.") for key in report["missing_keys"]):
            raise UserError(f"{name}: it has no language model to answer with; choose another.")
        tokenizer = AutoTokenizer.from_pretrained(name, **load, padding_side="left", trust_remote_code=False)
        image_processor = BlipImageProcessorPil.from_pretrained(name, **load)
        processor = Blip2Processor(image_processor, tokenizer, config.num_query_tokens)
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".:")
        raise UserError(f"{name}: can't be loaded as a folder or from the Hub ({reason}).") from error
    scaled = ("logits_scaling", "logit_scale", "final_logit_softcapping")
    if any(getattr(config.text_config, option, None) for option in scaled):
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


def merge(folder: str, args: Blip2TrainingArguments) -> None:
    """Writes the base model of an adapter, changed as the adapter says, into `folder/merged`."""
    name, adapter = find_base(folder)
    assert adapter is not None  # it has just been saved
    base, processor = load_base(name, dtype_of(args), adapter.revision, args.quantization)
    merged = load_adapter(base, adapter, folder).merge_and_unload()
    merged.save_pretrained(Path(folder) / "merged")
    processor.save_pretrained(Path(folder) / "merged")


def _report_trained(model: PeftModel) -> None:
    base = model.get_base_model()
    rooms = ("vision_model", "qformer", "language_projection", "language_model")
    counts = {}
    for name in rooms:
        part = getattr(base, name).named_parameters()
        used = [
            p for path, p in part if ".original_module." not in f".{path}"
        ]  # PEFT keeps what modules_to_save replaced
        counts[name] = (sum(p.numel() for p in used), sum(p.numel() for p in used if p.requires_grad))
    counts["all"] = tuple(sum(column) for column in zip(*counts.values(), strict=True))
    lines = [f"{'room':<20}{'parameters':>16}{'trained':>14}{'share':>9}"]
    for name, (total, trained) in counts.items():
        lines.append(f"{name:<20}{total:>16,}{trained:>14,}{trained / max(total, 1):>9.2%}")
    logger.info("%s", "\n".join(lines))
