"""ViLT (Kim et al. 2021, https://arxiv.org/abs/2102.03334): built, trained and asked as an answer classifier."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch import nn
from torch.utils.data import Sampler
from transformers import EarlyStoppingCallback, Trainer, ViltConfig, ViltProcessor
from transformers.trainer_utils import PredictionOutput

from metrics.calibration import TEMPERATURES, best_temperature
from metrics.vqa import classification_metrics
from modeling import explain
from modeling.parts.kept_features import KeptFeatures
from modeling.parts.kept_states import kept_states
from modeling.parts.vocabulary import labels_of
from modeling.training.arguments import ViltTrainingArguments
from modeling.training.optimization import grouped_by_image, set_learning_rate
from modeling.vilt.checkpoints import AnyVilt
from processing.box_questions import add_box_questions
from processing.collators import ViltCollator

MAX_CASES = 250  # of each kind that a report looks at


def describe_run(model: AnyVilt) -> dict[str, Any]:
    """What a checkpoint's config must hold to belong to a run with this model."""
    config = model.config.to_dict()
    return {name: config.get(name) for name in ("model_type", "label2id", "hidden_size", "num_hidden_layers")}


def build_trainer(
    args: ViltTrainingArguments,
    model: AnyVilt,
    processor: ViltProcessor,
    dataset: datasets.DatasetDict,
) -> Trainer:
    """A Trainer whose evaluation keeps the chosen answers only, not the logits.

    Where the model has a frozen vision network, batches bring its kept features instead of pixels.
    """
    answers = {answer for rows in dataset.values() for answer in rows["answer"]}
    training = dataset
    if args.box_questions and args.do_train:
        training = datasets.DatasetDict({**dataset, "train": add_box_questions(dataset["train"])})
    config = model.config
    columns = ("answer", "answer_type")
    rows = {row["row"]: row for split in dataset.values() for row in split.select_columns(["row", *columns])}
    patience = args.early_stopping_patience
    if args.vision_learning_rate == 0 and hasattr(model, "vision_top"):
        model.vision_top.requires_grad_(False)
    features = None
    if hasattr(model, "vision") and args.feature_cache_gb > 0:
        features = KeptFeatures(model.vision, processor.image_processor, args.feature_cache_gb)
        with args.main_process_first(desc="computing image features"):
            features.fill(image for split in dataset.values() for image in split["image"])
    states = None
    if hasattr(model, "text_encoder"):
        states = kept_states(model.text_encoder, processor.tokenizer, config.max_position_embeddings, training)
    return ViltTrainer(
        model,
        args,
        data_collator=ViltCollator(
            *(processor, labels_of(answers, config.label2id), config.num_labels, config.max_position_embeddings),
            share_images=hasattr(model, "vision") and args.n_gpu <= 1,  # torch's DataParallel would cut them apart
            features=features,
            states=states,
        ),
        train_dataset=training.get("train"),
        eval_dataset=dataset.get("validation"),
        processing_class=processor,
        compute_metrics=classification_metrics(rows, config.id2label),
        preprocess_logits_for_metrics=_AnswerChooser(config),
        callbacks=[EarlyStoppingCallback(patience)] if patience else None,
    )


class ViltTrainer(Trainer):
    """A Trainer with `questions_per_image` and `vision_learning_rate`."""

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Gives the pretrained image network of the starter its own learning rate."""
        created = self.optimizer is None
        optimizer = super().create_optimizer(model)
        rate = self.args.vision_learning_rate
        if created and rate is not None:
            pretrained = [p for name, p in self.model.named_parameters() if name.startswith("vision_top.")]
            set_learning_rate(optimizer, pretrained, rate)
        return optimizer

    def _get_train_sampler(self, train_dataset: datasets.Dataset | None = None) -> Sampler[int] | None:
        if self.args.questions_per_image == 1:
            return super()._get_train_sampler(train_dataset)
        return grouped_by_image(self.args, self.train_dataset if train_dataset is None else train_dataset)


def answer_probabilities(logits: torch.Tensor, config: ViltConfig, temperature: float | None = None) -> torch.Tensor:
    """Logits ``(B, num_labels)`` to the probability of each answer; only the starter's add up to one.

    Args:
        temperature: by default the config's `answer_temperature`, by which the model is calibrated, or 1.
    """
    exclusive = config.problem_type == "single_label_classification"  # else trained by binary cross entropy
    logits = logits.float() / (temperature or _temperature(config))
    return logits.softmax(-1) if exclusive else logits.sigmoid()


def _temperature(config: ViltConfig) -> float:
    return getattr(config, "answer_temperature", 1.0)


class _AnswerChooser:
    """Logits ``(B, num_labels)`` to the best label ``(B,)``, its probability at each of `TEMPERATURES`, ``(B, 65)``,
    and that of "no answer", ``(B,)``."""

    def __init__(self, config: ViltConfig) -> None:
        self.config = config
        self.no_answer_label = config.label2id.get("")

    def __call__(self, logits: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        probabilities = answer_probabilities(logits, self.config)
        label = probabilities.argmax(-1)
        confidences = [answer_probabilities(logits, self.config, at).max(-1).values for at in TEMPERATURES.tolist()]
        no_answer = torch.zeros_like(confidences[0])
        if self.no_answer_label is not None:
            no_answer = probabilities[:, self.no_answer_label]
        return label, torch.stack(confidences, 1), no_answer


def read_answers(output: PredictionOutput, trainer: Trainer) -> dict[int, tuple[str, float]]:
    """The answer and confidence of each row number from what `Trainer.predict` returns."""
    config = trainer.model.config
    labels, confidences, _ = output.predictions
    chosen = confidences[:, np.abs(TEMPERATURES - _temperature(config)).argmin()]
    columns = zip(output.label_ids, labels, chosen, strict=True)
    return {int(row): (config.id2label[int(label)], float(confidence)) for row, label, confidence in columns}


def heat_maps(trainer: Trainer, rows: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    """Where the model looked for the answer of each row, by `modeling.explain`: ``(rows, columns)`` of image tokens.

    Raises:
        UserError: the model has no map.
    """
    model: Any = trainer.model
    batch = trainer._prepare_inputs(trainer.data_collator.prompts(rows))
    del batch["row"]
    return explain.vilt_heat(model.eval(), batch, [model.config.label2id[row["answer"]] for row in rows])


def calibrate(output: PredictionOutput, trainer: Trainer, correct: Mapping[int, float]) -> None:
    """Sets and saves the temperature of the model's confidence.

    Args:
        output: of `Trainer.predict` on validation rows.
        correct: whether each row number was answered right, 0 or 1.
    """
    right = np.array([correct[int(row)] for row in output.label_ids])
    trainer.model.config.answer_temperature = best_temperature(output.predictions[1], right)
    _save_config(trainer)


def stay_silent(trainer: Trainer, threshold: float) -> None:
    """Sets and saves the confidence below which the model gives no answer."""
    trainer.model.config.answer_threshold = threshold
    _save_config(trainer)


def _save_config(trainer: Trainer) -> None:
    if trainer.args.should_save:
        trainer.model.config.save_pretrained(trainer.args.output_dir)
