"""The LoRA adapter on a BLIP-2: new, of a folder, merged."""

import logging
from pathlib import Path

import datasets
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Blip2Processor

from modeling.blip2.base import check_base_kind, is_encoder_decoder, load_base
from modeling.blip2.network import Blip2ForQuestionAnswering
from modeling.blip2.starter import Blip2StarterForQuestionAnswering, blip2_starter_checkpoint, blip2_starter_folders
from modeling.parts.evidence_targets import evidence_config
from modeling.parts.loading import load_adapter_config
from modeling.parts.model_files import ModelFiles, open_model
from modeling.training.arguments import Blip2TrainingArguments
from modeling.training.checks import check_starter
from modeling.training.precision import instead_of_fp16
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
from modeling.writing.answering import Answering
from modeling.writing.evidence import MODULE
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


def check_base(args: Blip2TrainingArguments) -> None:
    """Checks what a run starts from, by its name and its config.json, and pins its revision to a commit.

    Raises:
        UserError: there is no such model, or it is no BLIP-2 that answers.
    """
    name = args.model_name_or_path
    if name.startswith("scratch:"):
        raise UserError(
            f"--model_name_or_path {name}: scratch: is for ViLT; add --model_type vilt, or start from starter."
        )
    if name != "starter":
        args.model_revision = open_base(name, args.model_revision).own.commit


def build_model(args: Blip2TrainingArguments, dataset: datasets.DatasetDict) -> tuple[PeftModel, Blip2Processor]:
    """Loads the base model and its processor, and puts the adapter of the folder or a new one on it.

    A new adapter changes nothing, so a folder without one, a merged model for instance, is evaluated as it is.

    Raises:
        UserError: the checkpoint can't be loaded or is no BLIP-2, or the adapter does not fit its base.
    """
    name = args.model_name_or_path
    with args.main_process_first(desc="finding the base model"):
        base = open_base(name, args.model_revision)
        if base.adapter is not None and args.do_train:
            check_shape(args, base.adapter, _targets(args), args.modules_to_save)
            if "lora_dropout" in args.recipe:
                base.adapter.lora_dropout = args.lora_dropout
        base.model.weights(read_pickled=True)
    if (args.fp16 or args.fp16_full_eval) and is_encoder_decoder(base.model):
        args.leave_fp16(f"{base.model.name}: an encoder-decoder language model, in which FP16 overflows")
    if not args.do_train and "quantization" not in args.recipe:
        args.quantization = Answering.from_pretrained(base.own).quantization
    evidence = evidence_config(args.evidence_weight, dataset["train"]) if args.do_train else saved_evidence(base)
    dtype = frozen_dtype(args)
    model, processor = load_base(base.model, dtype, args.quantization, read_pickled=True, evidence=evidence)
    check_starter(args, isinstance(model, Blip2StarterForQuestionAnswering))
    if name != "starter" and "prompt" not in args.recipe:
        args.prompt = Answering.from_pretrained(base.own).prompt
    if base.adapter is None:
        revision = base.model.root.name if name == "starter" else base.model.commit
        peft_model = _new_adapter(model, args, revision)
    else:
        peft_model = load_adapter(model, base.adapter, base.own, args.do_train)
    return saving_adapters_alone(peft_model), processor


def _new_adapter(model: Blip2ForQuestionAnswering, args: Blip2TrainingArguments, revision: str | None) -> PeftModel:
    whole = [*(args.modules_to_save or []), *([] if model.evidence is None else [MODULE])]
    config = LoraConfig(
        revision=revision,
        r=args.lora_r,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules=_targets(args),
        modules_to_save=whole or None,
    )
    return with_fp32_copies(get_peft_model(model, config))


def _targets(args: Blip2TrainingArguments) -> str:
    return "|".join(rf".*{LORA_TARGETS[target]}" for target in args.lora_targets)


def open_base(name: str, revision: str | None = None) -> Base:
    """What a folder, a Hub id or `starter` stands for. Nothing but small files is fetched.

    Args:
        name: a folder, a Hub id or `starter`.
        revision: of a Hub id.

    Raises:
        UserError: as `open_model` and `find_base`.
    """
    if name == "starter":
        files = ModelFiles(name, blip2_starter_checkpoint())
        return Base(files, files)
    return find_base(open_model(name, revision))


def find_base(own: ModelFiles) -> Base:
    """The whole model under an adapter, or the whole model itself.

    Raises:
        UserError: it can't answer or is not there, or the adapter is of another kind than LoRA or for a starter that
            this version does not assemble.
    """
    adapter = load_adapter_config(own)
    if adapter is None:
        check_base_kind(own)
        return Base(own, own)
    base = str(adapter.base_model_name_or_path)
    if base != "starter":
        model = open_model(base, None if Path(base).expanduser().is_dir() else adapter.revision)
        check_base_kind(model)
        adapter.revision = model.commit  # of older adapters it is not known, and main then
        return Base(model, own, adapter)
    folders = {folder.name: folder for folder in blip2_starter_folders()}
    if adapter.revision not in folders:
        raise UserError(
            f"{own.name}: this adapter does not fit its base model (trained on {adapter.revision}, this version "
            f"assembles {' and '.join(folders)}); install the version of the project that trained it."
        )
    return Base(ModelFiles("starter", blip2_starter_checkpoint(folders[adapter.revision])), own, adapter)


def load_trained(files: ModelFiles, dtype: torch.dtype) -> tuple[Blip2ForQuestionAnswering, Blip2Processor]:
    """A trained model to ask: an adapter in its base, or a whole model.

    Raises:
        UserError: it can't be loaded.
    """
    base = find_base(files)
    if dtype == torch.float16 and is_encoder_decoder(base.model):
        dtype = instead_of_fp16()  # as in training
    quantization = quantization_here(files, dtype)
    model, processor = load_base(base.model, dtype, quantization, evidence=saved_evidence(base))
    if base.adapter is not None:
        load_adapter(model, base.adapter, base.own)  # its layers now stand in the base
    return model, processor


def merge(folder: str, args: Blip2TrainingArguments) -> None:
    """Writes the base model of an adapter, changed as the adapter says, into `folder/merged`."""
    base = open_base(folder)
    assert base.adapter is not None  # it has just been saved
    # not in 4 bit, where a sum would be rounded
    model, processor = load_base(base.model, frozen_dtype(args), read_pickled=True, evidence=saved_evidence(base))
    merged = load_adapter(model, base.adapter, base.own).merge_and_unload()
    merged.save_pretrained(Path(folder) / "merged")
    processor.save_pretrained(Path(folder) / "merged")
