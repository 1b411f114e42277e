"""BLIP-2: LoRA on the Q-Former, everything else frozen; built, trained and evaluated."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from peft import PeftModel
from torch import nn
from torch.utils.data import DataLoader, Sampler
from transformers import Blip2Processor, EarlyStoppingCallback, Seq2SeqTrainer
from transformers.trainer_utils import PredictionOutput

from metrics.calibration import fit_scale
from metrics.vqa import generation_metrics
from modeling import explain
from modeling.blip2.adapter import merge
from modeling.blip2.alignment import align
from modeling.blip2.answering import ANSWERING_FILE, Answering, decode_with
from modeling.blip2.candidates import AnswerTrie
from modeling.parts.kept_features import KeptFeatures
from modeling.training.arguments import Blip2TrainingArguments
from modeling.training.optimization import grouped_by_image, set_learning_rate
from processing.collators import Blip2Collator
from processing.errors import UserError

logger = logging.getLogger(__name__)

MAX_CASES = 60  # of each kind that a report looks at, as each needs a pass back through the language model


def describe_run(model: PeftModel) -> dict[str, Any]:
    """What a checkpoint's adapter config must hold to belong to a run with this model."""
    config = model.peft_config["default"].to_dict()
    return {name: config[name] for name in ("base_model_name_or_path", "r", "lora_alpha", "target_modules")}


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
            align(base, self.train_dataset, collator.processor.image_processor, collator.images.features, self.args)
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
    batch = trainer.data_collator.with_image_for_each_row()(rows)
    with trainer.compute_loss_context_manager():
        return explain.blip2_heat(trainer.model.eval().get_base_model(), trainer._prepare_inputs(batch))


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
