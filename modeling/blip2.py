"""BLIP-2: LoRA on the Q-Former, everything else frozen; built, trained and evaluated."""

import copy
import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import DataLoader, Sampler
from transformers import AutoConfig, AutoTokenizer, Blip2Processor, EarlyStoppingCallback, Seq2SeqTrainer
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.trainer_utils import PredictionOutput
from transformers.utils import cached_file

from metrics.calibration import fit_scale, scaled
from metrics.vqa import generation_metrics
from modeling import explain
from modeling.arguments import Blip2TrainingArguments
from modeling.blip2_alignment import align
from modeling.blip2_model import AnswerTrie, Blip2ForQuestionAnswering
from modeling.blip2_starter import Blip2StarterForQuestionAnswering, blip2_starter_checkpoint
from modeling.frozen_vision import KeptFeatures
from modeling.training import grouped_by_image, set_learning_rate
from processing.collators import Blip2Collator
from processing.errors import UserError
from processing.utils import write_atomically

logger = logging.getLogger(__name__)

QFORMER = r"qformer\.encoder\.layer\.\d+\."
LORA_TARGETS = {
    "attention": QFORMER + r"(attention|crossattention)\.attention\.(query|key|value)",
    "dense": QFORMER + r".*\.dense",
    "projection": r"language_projection",
    "language_model": r"language_model\..*\.(q_proj|k_proj|v_proj|o_proj|out_proj|q|k|v|o|fc1|fc2"
    r"|gate_proj|up_proj|down_proj|wi|wi_0|wi_1|wo)",
}


MAX_CASES = 60  # of each kind that a report looks at, as each needs a pass back through the language model
ANSWERING_FILE = "answering.json"
MODELS = {"blip-2": Blip2ForQuestionAnswering, "blip2_starter": Blip2StarterForQuestionAnswering}


@dataclass(frozen=True)
class Answering:
    """How a trained model is asked; its trainer leaves this beside the weights.

    Args:
        prompt: with one `{}` for the question.
        max_new_tokens: length of the longest answer.
        num_beams: 1 is greedy.
        candidates: the answers to choose from, where they are not free text.
        confidence_scale: slope and offset that calibrate its confidence, by `metrics.calibration.scaled`.
        threshold: it gives no answer whose confidence is below.
    """

    prompt: str = Blip2TrainingArguments.prompt
    max_new_tokens: int = 20
    num_beams: int = 1
    candidates: list[str] | None = None
    confidence_scale: list[float] | None = None
    threshold: float = 0.0

    def calibrated(self, confidences: np.ndarray) -> np.ndarray:
        """Confidences of the model, 0 to 1, as they are told."""
        return confidences if self.confidence_scale is None else scaled(confidences, *self.confidence_scale)

    def save(self, folder: str | Path) -> None:
        """Writes it into a model's folder."""
        write_atomically(Path(folder) / ANSWERING_FILE, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def of(cls, name: str) -> "Answering":
        """That of a model's folder or Hub id, the defaults where it has none.

        Raises:
            UserError: the file is damaged.
        """
        file = cached_file(
            *(name, ANSWERING_FILE),
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if file is None:
            return cls()
        try:
            answering = cls(**json.loads(Path(file).read_text(encoding="utf-8")))
            if answering.prompt.count("{}") != 1 or min(answering.max_new_tokens, answering.num_beams) < 1:
                raise ValueError
            if not 0 <= answering.threshold <= 1:
                raise ValueError
            answering.calibrated(np.array([0.5]))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{file}: it does not say how to ask the model; save the model again.") from error
        return answering


def build_model(args: Blip2TrainingArguments, dataset: datasets.DatasetDict) -> tuple[PeftModel, Blip2Processor]:
    """Loads the base model, puts a new adapter on it or the one of the folder, and its processor.

    A new adapter changes nothing, so a folder without one, a merged model for instance, is evaluated as it is.

    Raises:
        UserError: the checkpoint can't be loaded or is no BLIP-2, or the adapter does not fit its base.
    """
    name = args.model_name_or_path
    with args.main_process_first(desc="finding the base model"):
        base, adapter = find_base(name)
    model, processor = load_base(base, _dtype(args), adapter and adapter.revision, args.quantization)
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


def _dtype(args: Blip2TrainingArguments) -> torch.dtype:
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
    base, processor = load_base(name, _dtype(args), adapter.revision, args.quantization)
    merged = load_adapter(base, adapter, folder).merge_and_unload()
    merged.save_pretrained(Path(folder) / "merged")
    processor.save_pretrained(Path(folder) / "merged")


def describe_run(model: PeftModel) -> dict[str, Any]:
    """What a checkpoint's adapter config must hold to belong to a run with this model."""
    config = model.peft_config["default"].to_dict()
    return {name: config[name] for name in ("base_model_name_or_path", "r", "lora_alpha", "target_modules")}


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


def build_trainer(
    args: Blip2TrainingArguments, model: PeftModel, processor: Blip2Processor, dataset: datasets.DatasetDict
) -> "Blip2Trainer":
    """A Trainer whose evaluation generates answers. Batches bring kept features of images instead of pixels.

    Raises:
        UserError: several GPUs in one process.
    """
    if args.n_gpu > 1:
        raise UserError("Several GPUs need accelerate launch --multi_gpu; CUDA_VISIBLE_DEVICES=0 chooses one of them.")
    base: Any = model.get_base_model()
    features = None
    if args.feature_cache_gb > 0:
        network = base.take_frozen_vision().to(args.device)
        features = KeptFeatures(network, processor.image_processor, args.feature_cache_gb)
        with args.main_process_first(desc="computing image features"):
            features.fill(image for split in dataset.values() for image in split["image"])
        network.to("cpu")
    collator = Blip2Collator(
        processor, args.prompt, args.questions_per_image, base.config.use_decoder_only_language_model, features
    )
    columns = ("answer", "answer_type")
    rows = {row["row"]: row for split in dataset.values() for row in split.select_columns(["row", *columns])}
    _limit_answers(args, collator, dataset)
    candidates = sorted(set(dataset["train"]["answer"])) if args.answer_candidates == "train" else []
    patience = args.early_stopping_patience
    trainer = Blip2Trainer(
        model,
        args,
        data_collator=collator,
        train_dataset=dataset.get("train"),
        eval_dataset=dataset.get("validation"),
        processing_class=processor,
        compute_metrics=generation_metrics(rows, decode_with(processor), candidates),
        callbacks=[EarlyStoppingCallback(patience)] if patience else None,
        candidates=candidates,
    )
    if not args.do_train:
        scale = Answering.of(args.model_name_or_path).confidence_scale
        trainer.answering = replace(trainer.answering, confidence_scale=scale)
    return trainer


def _limit_answers(args: Blip2TrainingArguments, collator: Blip2Collator, dataset: datasets.DatasetDict) -> None:
    """Sets `max_new_tokens` where it is not given, and counts the answers that are longer."""
    lengths = {
        split: [len(collator.answer_ids(answer)) for answer in rows["answer"]] for split, rows in dataset.items()
    }
    if args.max_new_tokens is None:
        args.max_new_tokens = max(lengths.get("train") or max(lengths.values(), key=max))
    for split, counts in lengths.items():
        if cut := sum(length > args.max_new_tokens for length in counts):
            logger.warning(
                "%d of %d %s answers are longer than --max_new_tokens %d: they can't be met.",
                *(cut, len(counts), split, args.max_new_tokens),
            )


class Blip2Trainer(Seq2SeqTrainer):
    """Trains on shared prefixes; scores generated answers and, where there are candidates, the likeliest of them."""

    data_collator: Any

    def __init__(self, *args: Any, candidates: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.candidates = list(candidates)
        self.answering = Answering(
            *(self.args.prompt, self.args.max_new_tokens, self.args.generation_num_beams or 1),
            candidates=self.candidates or None,
        )
        self.trie = (
            AnswerTrie([self.data_collator.answer_ids(answer) for answer in candidates]) if candidates else None
        )

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Trains, after the alignment where it is asked for; a checkpoint has it behind it."""
        if self.args.alignment_epochs and not resume_from_checkpoint:
            base = self.model.get_base_model()
            collator = self.data_collator
            align(base, self.train_dataset, collator.processor.image_processor, collator.features, self.args)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the adapter and how to ask it and, at the end of training, the merged model where it is asked for."""
        super().save_model(output_dir, _internal_call)
        if not self.args.should_save:
            return
        folder = output_dir or self.args.output_dir
        self.answering.save(folder)
        if self.args.merge_adapter and not _internal_call:
            merge(folder, self.args)
            self.answering.save(f"{folder}/merged")

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Gives what is trained whole and knows something already its own learning rate; a projection is new."""
        created = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if created and self.args.qformer_learning_rate is not None:
            whole = [p for name, p in self.model.named_parameters() if ".modules_to_save." in name]
            new = {id(p) for p in self.model.get_base_model().language_projection.parameters()}
            pretrained = [p for p in whole if id(p) not in new]
            set_learning_rate(optimizer, pretrained, self.args.qformer_learning_rate)
        return optimizer

    def _get_train_sampler(self, train_dataset: datasets.Dataset | None = None) -> Sampler[int]:
        return grouped_by_image(self.args, self.train_dataset if train_dataset is None else train_dataset)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        return self._with_prompts(super().get_eval_dataloader, eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        return self._with_prompts(super().get_test_dataloader, test_dataset)

    def _with_prompts(self, make: Callable[[Any], DataLoader], rows: Any) -> DataLoader:
        collator = self.data_collator
        self.data_collator = collator.prompts
        try:
            return make(rows)
        finally:
            self.data_collator = collator

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Each row once: Seq2SeqTrainer keeps those that fill up the last batch of several processes."""
        self.gather_function = self.accelerator.gather_for_metrics
        return super().evaluation_loop(*args, **kwargs)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None, **_: Any
    ) -> tuple[None, tuple[torch.Tensor, ...], torch.Tensor]:
        """Answers a batch: tokens and their confidence, and where there are candidates the likeliest and its
        probability among them."""
        inputs = self._prepare_inputs(inputs)
        rows = inputs.pop("row")
        tokenizer = self.processing_class.tokenizer
        base = self.accelerator.unwrap_model(model).get_base_model()
        with self.compute_loss_context_manager():
            tokens, confidence = base.generate(
                **inputs,
                max_new_tokens=self.args.max_new_tokens,
                num_beams=self.args.generation_num_beams or 1,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
            missing = self.args.max_new_tokens - tokens.shape[1]
            outputs = [nn.functional.pad(tokens, (0, missing), value=tokenizer.pad_token_id), confidence]
            if self.trie is not None:
                probability, candidate = base.score(self.trie, **inputs).softmax(-1).max(-1)
                outputs += [candidate, probability]
        return None, tuple(outputs), rows


def decode_with(processor: Blip2Processor) -> Callable[[Any], list[str]]:
    """A function from tokens ``(N, T)`` to answers."""

    def decode(tokens: Any) -> list[str]:
        tokens = torch.as_tensor(tokens)
        tokens = tokens.masked_fill(tokens < 0, processor.tokenizer.pad_token_id)  # Trainer pads with -100
        return [answer.strip() for answer in processor.batch_decode(tokens, skip_special_tokens=True)]

    return decode


def read_answers(output: PredictionOutput, trainer: Blip2Trainer) -> dict[int, tuple[str, float]]:
    """The answer and confidence of each row number from what `Trainer.predict` returns."""
    answers = decode_with(trainer.processing_class)(output.predictions[0])
    confidence = output.predictions[1]
    if trainer.candidates:
        answers = [trainer.candidates[int(candidate)] for candidate in output.predictions[2]]
        confidence = output.predictions[3]
    confidence = trainer.answering.calibrated(confidence)
    return {
        int(row): (answer, float(sure))
        for row, answer, sure in zip(output.label_ids, answers, confidence, strict=True)
    }


def heat_maps(trainer: Blip2Trainer, rows: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    """Where the model looked for the answer of each row: as `modeling.vilt.heat_maps`."""
    collator = copy.copy(trainer.data_collator)
    collator.images = _OfEach(collator.images)
    collator.features = None if collator.features is None else _OfEach(collator.features)
    batch = collator([dict(row) | {"image": (number, row["image"])} for number, row in enumerate(rows)])
    with trainer.compute_loss_context_manager():
        return explain.blip2_heat(trainer.model.eval().get_base_model(), trainer._prepare_inputs(batch))


class _OfEach:
    """A lookup by number and image: questions about an image whose number differs do not share it."""

    def __init__(self, lookup: Any) -> None:
        self.lookup = lookup

    def __getitem__(self, key: tuple[int, str]) -> Any:
        return self.lookup[key[1]]


def calibrate(output: PredictionOutput, trainer: Blip2Trainer, correct: Mapping[int, float]) -> None:
    """Sets and saves the scale of the model's confidence; arguments as for `modeling.vilt.calibrate`."""
    confidence = output.predictions[3 if trainer.candidates else 1]
    right = np.array([correct[int(row)] for row in output.label_ids])
    _change_answering(trainer, confidence_scale=list(fit_scale(confidence, right)))


def stay_silent(trainer: Blip2Trainer, threshold: float) -> None:
    """Sets and saves the confidence below which the model gives no answer."""
    _change_answering(trainer, threshold=threshold)


def _change_answering(trainer: Blip2Trainer, **changes: Any) -> None:
    trainer.answering = replace(trainer.answering, **changes)
    if trainer.args.should_save:
        folder = Path(trainer.args.output_dir)
        for place in (folder, folder / "merged"):
            if (place / ANSWERING_FILE).is_file():
                trainer.answering.save(place)
