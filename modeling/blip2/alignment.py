"""The first stage of the BLIP-2 starter: its Q-Former learns to see before the language model comes in.

BLIP-2 (Li et al. 2023, https://arxiv.org/abs/2301.12597, section 3.1) trains the Q-Former on images and text without
the language model first, so that the query tokens hold what text says of an image. The starter does so on the training
rows. A light head reads the question, attends to the query tokens and chooses the answer; then it is thrown away.

Without this stage the query tokens fit the training images and do not carry the plainest facts of others.
"""

import copy
import logging
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import nn
from torch.utils.data import Sampler
from transformers import Blip2Processor, ViltProcessor
from transformers.modeling_outputs import SequenceClassifierOutput

from modeling.blip2.starter import Blip2StarterForQuestionAnswering
from modeling.parts.evidence_targets import WithEvidence
from modeling.parts.kept_features import one_per_question
from modeling.parts.kept_states import kept_states_and_wordings
from modeling.parts.minilm import MAX_QUESTION_LENGTH, drop_tokens, minilm, minilm_tokenizer
from modeling.parts.vocabulary import build_vocabulary, labels_of
from modeling.training.arguments import Blip2TrainingArguments
from modeling.training.checkpoints import StopOnSigterm, TrainedRows, find_checkpoint, training_settings
from modeling.training.progress import show_progress
from modeling.training.trainers import EvaluatesEveryRow, grouped_by_image, set_learning_rate
from modeling.writing.evidence import evidence_targets, loss_of_evidence
from processing.batch_images import FeatureLookup
from processing.collators import ViltCollator
from processing.other_words import InOtherWords
from processing.row_values import counts_of, digest_of

logger = logging.getLogger(__name__)

LEARNING_RATE = 5e-4  # of Q-Former and head; benchmarks/quality.md has what was tried
VISION_LEARNING_RATE = 2e-4
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1
WORD_DROPOUT = 0.1


class QuestionHead(nn.Module):
    """Chooses an answer by a layer in which the question's tokens attend to the query tokens of the image.

    The query tokens never see the question.

    Args:
        base: its Q-Former and vision network train.
        num_labels: size of the answer vocabulary.
    """

    accepts_loss_kwargs = False  # see ViltForQuestionAnswering in modeling.vilt.network

    def __init__(self, base: Blip2StarterForQuestionAnswering, num_labels: int) -> None:
        super().__init__()
        self.base = base
        self.embeddings = base.get_input_embeddings()  # of the texts of evidence
        self.text_encoder = minilm()
        width = self.text_encoder.config.hidden_size
        self.layer = nn.TransformerDecoderLayer(width, 6, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.classifier = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_labels))

    def train(self, mode: bool = True) -> "QuestionHead":
        """MiniLM stays frozen and without dropout."""
        super().train(mode)
        self.text_encoder.eval().requires_grad_(False)
        return self

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_index: torch.Tensor,
        labels: torch.Tensor,
        image_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        text_states: torch.Tensor | None = None,
        evidence: dict[str, torch.Tensor] | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """The loss of answers ``(B, num_labels)`` to questions ``(B, L)`` about images ``(I, ...)``.

        The loss of evidence is added, where the batch brings targets for it.
        """
        if text_states is None:
            with torch.no_grad():
                text_states = self.text_encoder(input_ids, attention_mask).last_hidden_state
        mask = drop_tokens(attention_mask, WORD_DROPOUT).bool()
        vision_states, moves = self.base.vision_states(pixel_values, image_embeds)
        places = self.base.evidence_places(vision_states)
        queries = one_per_question(self.base.query_states(vision_states, places), image_index)
        states = self.layer(text_states.float(), queries, tgt_key_padding_mask=~mask) * mask.unsqueeze(-1)
        logits = self.classifier(states.sum(1) / mask.sum(1, keepdim=True)).float()
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING)
        if places is not None and evidence is not None:
            loss = loss + loss_of_evidence(self.base, places, moves, evidence, self.embeddings)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class _AlignmentTrainer(EvaluatesEveryRow):
    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        created = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if created:
            set_learning_rate(optimizer, self.model.base.vision_model.parameters(), VISION_LEARNING_RATE)
        return optimizer

    # The Trainer's only hook for another order of rows.
    def _get_train_sampler(self, train_dataset: datasets.Dataset | None = None) -> Sampler[int]:
        return grouped_by_image(self.args, self.train_dataset if train_dataset is None else train_dataset)


def first_stage_folder(args: Blip2TrainingArguments) -> Path:
    """Where the first stage of a run has its checkpoints, until the run ends."""
    return Path(args.output_dir) / "first_stage"


def align(
    base: Blip2StarterForQuestionAnswering,
    rows: datasets.Dataset,
    processor: Blip2Processor,
    features: FeatureLookup | None,
    args: Blip2TrainingArguments,
) -> None:
    """Trains what is trainable of `base`, the language model left out, for `alignment_epochs` over the rows.

    It resumes from its last checkpoint, where the run keeps checkpoints.

    Args:
        base: its Q-Former changes, and the upper half of its vision network where that is trainable. So does its
            evidence head.
        rows: the training rows.
        processor: makes pixels where no features are kept, and the tokens of the texts of evidence.
        features: kept features of the frozen half, by image.
        args: the run's.

    Raises:
        UserError: its checkpoint is of another run.
    """
    answers = build_vocabulary(counts := counts_of(rows, "answer"))
    label2id = {answer: i for i, answer in enumerate(answers)}
    logger.info("The Q-Former trains for %g epochs without the language model.", args.alignment_epochs)
    head = QuestionHead(base, len(answers))
    language_model, base.language_model = base.language_model, None
    tokenizer = minilm_tokenizer()
    encoder = head.text_encoder.to(args.device)
    states, wordings = kept_states_and_wordings(
        encoder, tokenizer, MAX_QUESTION_LENGTH, {"train": rows}, args.other_words > 0
    )
    collator: Any = ViltCollator(
        ViltProcessor(processor.image_processor, tokenizer),
        labels_of(counts, label2id),
        len(answers),
        MAX_QUESTION_LENGTH,
        share_images=True,
        features=features,
        states=states,
    )
    if base.evidence is not None:
        targets = evidence_targets(base.config.evidence_labels, base.evidence.grid, processor.tokenizer)
        collator = WithEvidence(collator, targets)
    trainer = _AlignmentTrainer(head, _alignment_arguments(args), data_collator=collator, train_dataset=rows)
    if args.other_words:
        trainer.training_collator = InOtherWords(collator, args.other_words, args.seed, wordings)
    digest = digest_of(rows)
    trainer.add_callback(StopOnSigterm())
    trainer.add_callback(TrainedRows(digest, training_settings(trainer.args)))
    show_progress(trainer)
    trainer.train(resume_from_checkpoint=find_checkpoint(trainer.args, {}, digest))
    base.language_model = language_model


def _alignment_arguments(args: Blip2TrainingArguments) -> Blip2TrainingArguments:
    """The run's arguments for the first stage."""
    own = copy.copy(args)
    own.num_train_epochs, own.max_steps = args.alignment_epochs, -1
    own.learning_rate, own.weight_decay = LEARNING_RATE, WEIGHT_DECAY
    if args.alignment_batch_size is not None:
        own.per_device_train_batch_size = args.alignment_batch_size
    own.output_dir, own.eval_strategy = str(first_stage_folder(args)), "no"
    own.save_strategy = "no" if args.save_strategy == "no" else "epoch"
    own.save_total_limit = 1
    own.load_best_model_at_end, own.report_to = False, []
    return own
