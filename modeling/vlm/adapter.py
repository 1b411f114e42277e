"""The LoRA adapter on an image-text-to-text model: new, of a folder, merged."""

import re
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from modeling.parts.evidence_targets import evidence_config
from modeling.parts.loading import load_adapter_config
from modeling.parts.model_files import ModelFiles, open_model
from modeling.training.arguments import VlmTrainingArguments
from modeling.training.precision import instead_of_fp16
from modeling.vlm.base import check_base_kind, load_base
from modeling.vlm.projector import cast_for_projector, projector_name
from modeling.vlm.starter import vlm_starter_checkpoint, vlm_starter_folder
from modeling.writing.adapter import (
    Base,
    check_shape,
    frozen_dtype,
    load_adapter,
    quantization_here,
    saved_evidence,
    saving_adapters_alone,
    with_fp32_copies,
)
from modeling.writing.answering import ANSWERING_FILE, Answering
from modeling.writing.evidence import MODULE
from processing.errors import UserError

STARTER = "starter"
LORA_TARGETS = {
    "attention": r"self_attn\.(q_proj|k_proj|v_proj|o_proj)",
    "dense": r"mlp\.(gate_proj|up_proj|down_proj)",
}


def check_base(args: VlmTrainingArguments) -> None:
    """Checks what a run starts from, by its name and its config.json, and pins its revision to a commit.

    Raises:
        UserError: there is no such model, or it is none that this family can ask.
    """
    if args.model_name_or_path != STARTER:
        args.model_revision = open_base(args.model_name_or_path, args.model_revision).own.commit


def open_base(name: str, revision: str | None = None) -> Base:
    """What a folder, a Hub id or `starter` stands for. Nothing but small files is fetched.

    Raises:
        UserError: as `open_model` and `find_base`.
    """
    if name == STARTER:
        files = ModelFiles(name, vlm_starter_checkpoint())
        return Base(files, files)
    return find_base(open_model(name, revision))


def find_base(own: ModelFiles) -> Base:
    """The whole model under an adapter, or the whole model itself.

    Raises:
        UserError: it is not there, can't be asked, or the adapter is of another kind than LoRA.
    """
    adapter = load_adapter_config(own)
    if adapter is None:
        check_base_kind(own)
        return Base(own, own)
    base = str(adapter.base_model_name_or_path)
    if base == STARTER:
        if adapter.revision != vlm_starter_folder().name:
            raise UserError(
                f"{own.name}: this adapter does not fit its base model (trained on {adapter.revision}, this version "
                f"assembles {vlm_starter_folder().name}); install the version of the project that trained it."
            )
        return Base(ModelFiles(STARTER, vlm_starter_checkpoint()), own, adapter)
    model = open_model(base, None if Path(base).expanduser().is_dir() else adapter.revision)
    check_base_kind(model)
    adapter.revision = model.commit
    return Base(model, own, adapter)


def build_model(args: VlmTrainingArguments, dataset: datasets.DatasetDict) -> tuple[PeftModel, Any]:
    """Loads the base model and its processor, and puts the adapter of the folder or a new one on it.

    A new adapter changes nothing, so a folder without one is evaluated as it is.

    Raises:
        UserError: the checkpoint can't be loaded, or the adapter does not fit its base.
    """
    with args.main_process_first(desc="finding the base model"):
        base = open_base(args.model_name_or_path, args.model_revision)
        base.model.weights(read_pickled=True)
    if args.fp16 or args.fp16_full_eval:
        args.leave_fp16(f"{base.model.name}: a model of this kind overflows in FP16")
    answering = Answering.from_pretrained(base.own)
    if not args.do_train and "quantization" not in args.recipe:
        args.quantization = answering.quantization
    evidence = evidence_config(args.evidence_weight, dataset["train"]) if args.do_train else saved_evidence(base)
    dtype = frozen_dtype(args)
    if base.own.find(ANSWERING_FILE) is not None:
        if "prompt" not in args.recipe:
            args.prompt = answering.prompt
        if "system_prompt" not in args.recipe:
            args.system_prompt = answering.system
        if "max_pixels" not in args.recipe:
            args.max_pixels = answering.max_pixels
    model, processor = load_base(base.model, dtype, args.quantization, True, evidence, args.max_pixels)
    targets = _targets(model, args)
    if base.adapter is None:
        config = LoraConfig(
            revision=base.model.root.name if args.model_name_or_path == STARTER else base.model.commit,
            r=args.lora_r,
            lora_alpha=args.lora_alpha,
            lora_dropout=args.lora_dropout,
            target_modules=targets,
            modules_to_save=[*_whole(model, args), *([] if model.evidence is None else [MODULE])] or None,
        )
        peft_model = get_peft_model(model, config)
    else:
        if args.do_train:
            check_shape(args, base.adapter, targets, _whole(model, args))
            if "lora_dropout" in args.recipe:
                base.adapter.lora_dropout = args.lora_dropout
        peft_model = load_adapter(model, base.adapter, base.own, args.do_train)
    cast_for_projector(model)
    model.reader.take_over()
    return saving_adapters_alone(with_fp32_copies(peft_model)), processor


def _targets(model: Any, args: VlmTrainingArguments) -> str:
    """The pattern of the modules that LoRA matrices are added to.

    Raises:
        UserError: the projector is asked for, and there is none with linear layers.
    """
    names = {part: name for name, part in model.named_modules()}
    decoder = re.escape(names[model.get_decoder()])
    patterns = [rf"{decoder}\.layers\.\d+\.{LORA_TARGETS[name]}" for name in args.lora_targets if name in LORA_TARGETS]
    if patterns and not any(re.fullmatch("|".join(patterns), name) for name in names.values()):
        raise UserError(
            f"--lora_targets {' '.join(args.lora_targets)}: the language model of a {model.config.model_type} has no "
            "layers of these names."
        )
    if "projector" in args.lora_targets:
        projector = getattr(model.model, projector_name(model, "--lora_targets"))
        layers = [re.escape(names[part]) for part in projector.modules() if isinstance(part, nn.Linear)]
        if not layers:
            raise UserError(
                f"--lora_targets projector: that of a {model.config.model_type} has no linear layers; use "
                "--modules_to_save projector."
            )
        patterns += layers
    return "|".join(patterns)


def _whole(model: Any, args: VlmTrainingArguments) -> list[str]:
    """The modules that are trained whole, without the evidence head."""
    return [projector_name(model, "--modules_to_save") for _ in args.modules_to_save or ()]


def load_trained(files: ModelFiles, dtype: torch.dtype) -> tuple[Any, Any]:
    """A trained model to ask: an adapter in its base, or a whole model.

    Raises:
        UserError: it can't be loaded.
    """
    base = find_base(files)
    if dtype == torch.float16:
        dtype = instead_of_fp16()  # as in training
    max_pixels = Answering.from_pretrained(files).max_pixels
    model, processor = load_base(
        base.model, dtype, quantization_here(files, dtype), evidence=saved_evidence(base), max_pixels=max_pixels
    )
    if base.adapter is not None:
        load_adapter(model, base.adapter, base.own)  # its layers now stand in the base
        cast_for_projector(model)
    return model, processor


def merge(folder: str, args: VlmTrainingArguments) -> None:
    """Writes the base model of an adapter, changed as the adapter says, into `folder/merged`."""
    base = open_base(folder)
    assert base.adapter is not None  # it has just been saved
    # not in 4 bit, where a sum would be rounded
    model, processor = load_base(
        base.model, frozen_dtype(args), read_pickled=True, evidence=saved_evidence(base), max_pixels=args.max_pixels
    )
    merged = load_adapter(model, base.adapter, base.own).merge_and_unload()
    merged.save_pretrained(Path(folder) / "merged")
    processor.save_pretrained(Path(folder) / "merged")
