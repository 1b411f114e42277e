"""ViLT (Kim et al. 2021, https://arxiv.org/abs/2102.03334): built, trained and asked as an answer classifier."""

import logging
import string
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from safetensors import SafetensorError
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from torch.utils.data import Sampler
from transformers import (
    AutoConfig,
    AutoTokenizer,
    EarlyStoppingCallback,
    PreTrainedTokenizerFast,
    Trainer,
    ViltConfig,
    ViltProcessor,
)
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil
from transformers.models.vilt.modeling_vilt import ViltEmbeddings, ViltSelfAttention
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.trainer_utils import PredictionOutput

from metrics.calibration import TEMPERATURES, best_temperature
from metrics.squad_v2.scoring import normalize_answer
from metrics.vqa import classification_metrics
from modeling import explain
from modeling.arguments import ViltTrainingArguments
from modeling.frozen_text import kept_states
from modeling.frozen_vision import KeptFeatures
from modeling.starter import ViltStarterForQuestionAnswering, starter_checkpoint
from modeling.training import grouped_by_image, set_learning_rate
from processing.box_questions import add_box_questions
from processing.collators import ViltCollator
from processing.errors import UserError

logger = logging.getLogger(__name__)

# Untrained models for machines without a Hub (small) and for tests (tiny). `image_size` is in pixels.
SCRATCH = {
    "tiny": {
        **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
        **{"image_size": 64, "patch_size": 16},
    },
    "small": {
        **{"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024},
        **{"image_size": 192, "patch_size": 32},
    },
}
MAX_CASES = 250  # of each kind that a report looks at
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class DeterministicViltEmbeddings(ViltEmbeddings):
    """ViLT's embeddings without its random draws: patches stay in grid order and padding is masked, not sampled.

    The stock class shuffles the patches of each image by `torch.multinomial`. Attention does not depend on their
    order, so the outputs are the same up to rounding, and now the same each time.
    """

    def visual_embed(
        self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor, max_image_length: int = -1
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Embeds images.

        Args:
            pixel_values: ``(B, 3, H, W)``.
            pixel_mask: ``(B, H, W)``, 1 for real pixels; each image fills the top left of its padding.
            max_image_length: a positive number samples that many patches, as the stock class does.

        Returns:
            Embeddings ``(B, 1 + patches, hidden_size)``, their mask ``(B, 1 + patches)`` and None.
        """
        if max_image_length is not None and max_image_length > 0:
            return super().visual_embed(pixel_values, pixel_mask, max_image_length)
        patches = self.patch_embeddings(pixel_values)  # (B, D, h, w)
        height, width = patches.shape[2:]
        mask = nn.functional.interpolate(pixel_mask[:, None].float(), size=(height, width)).long()[:, 0]  # (B, h, w)
        grid = self.config.image_size // self.config.patch_size
        positions = self.position_embeddings[:, 1:].transpose(1, 2).reshape(1, -1, grid, grid)

        sizes = torch.stack([mask[:, :, 0].sum(1), mask[:, 0].sum(1)], dim=1)  # (B, 2) in patches
        distinct, which = sizes.unique(dim=0, return_inverse=True)
        resized = [
            nn.functional.pad(
                nn.functional.interpolate(positions, size=(h, w), mode="bilinear", align_corners=True),
                (0, width - w, 0, height - h),
            )
            for h, w in distinct.tolist()
        ]
        patches = patches + torch.cat(resized)[which]

        cls_token = (self.cls_token + self.position_embeddings[:, :1]).expand(len(patches), -1, -1)
        embeddings = torch.cat([cls_token, patches.flatten(2).transpose(1, 2)], dim=1)
        mask = torch.cat([mask.new_ones(len(mask), 1), mask.flatten(1)], dim=1)
        return self.dropout(embeddings), mask, None


class SdpaViltSelfAttention(ViltSelfAttention):
    """ViLT's attention through PyTorch's fused kernel, which never holds the matrix of probabilities."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, ...]:
        """Tokens ``(B, T, D)`` to tokens ``(B, T, D)``; `output_attentions` takes the stock class's way."""
        if output_attentions:
            return super().forward(hidden_states, attention_mask, output_attentions)
        heads = (*hidden_states.shape[:-1], -1, self.attention_head_size)
        query, key, value = (
            layer(hidden_states).view(heads).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        if attention_mask is not None:
            attention_mask = attention_mask.to(query.dtype)
        context = nn.functional.scaled_dot_product_attention(
            query, key, value, attention_mask, dropout_p=self.dropout.p if self.training else 0.0
        )
        return (context.transpose(1, 2).flatten(2),)


class ViltForQuestionAnswering(transformers.ViltForQuestionAnswering):
    """The transformers class, same weights and same outputs, made deterministic and fast."""

    # Its forward takes any keyword and ignores it; without this the Trainer believes that it scales the loss itself
    # and does not divide by the number of accumulated batches.
    accepts_loss_kwargs = False

    def __init__(self, config: ViltConfig) -> None:
        super().__init__(config)
        # same parameters, another forward
        self.vilt.embeddings.__class__ = DeterministicViltEmbeddings
        for layer in self.vilt.encoder.layer:
            layer.attention.attention.__class__ = SdpaViltSelfAttention
        self._no_split_modules = {"ViltLayer"}  # what FSDP shares out; the stock names are those of classes replaced


AnyVilt = ViltForQuestionAnswering | ViltStarterForQuestionAnswering
MODELS: dict[str, tuple[Any, Any]] = {
    "vilt": (ViltForQuestionAnswering, ViltImageProcessorPil),
    "vilt_starter": (ViltStarterForQuestionAnswering, ViTImageProcessorPil),
}


def build_model(args: ViltTrainingArguments, dataset: datasets.DatasetDict) -> tuple[AnyVilt, ViltProcessor]:
    """Loads or makes the model and its processor.

    To train, the head is one over the answers of the training rows; to evaluate only, the model keeps its own.

    Raises:
        UserError: the checkpoint can't be loaded or is no ViLT.
    """
    name = args.model_name_or_path
    labels: dict = {}
    if args.do_train:
        answers = build_vocabulary(dataset["train"]["answer"])
        labels = {"label2id": {answer: i for i, answer in enumerate(answers)}, "id2label": dict(enumerate(answers))}
    untrained = name == "starter" or name.startswith("scratch:")
    if untrained and not args.do_train:
        raise UserError(f"{name}: an untrained model has nothing to evaluate; name a folder.")
    if name == "starter":
        with args.main_process_first(desc="assembling the starter"):
            checkpoint = str(starter_checkpoint())
        verbosity = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()  # else it reports every untrained weight as missing
        model, processor = load_checkpoint(checkpoint, labels)
        transformers.logging.set_verbosity(verbosity)
    elif untrained:
        model, processor = _from_scratch(name.removeprefix("scratch:"), labels, dataset["train"]["question"])
    else:
        model, processor = load_checkpoint(name, labels)
    if args.do_train:
        config = model.config
        config.answer_temperature, config.answer_threshold = 1.0, 0.0  # the checkpoint's are for other answers
    _report_vocabulary(model.config, dataset)
    _report_cut_questions(processor, model.config, dataset)
    return model, processor


def load_checkpoint(name: str, options: dict[str, dict] | None = None) -> tuple[AnyVilt, ViltProcessor]:
    """Loads a model and its processor.

    Args:
        name: a folder or a Hub id.
        options: `label2id` and `id2label` of a head to train; without them the model keeps its own.

    Raises:
        UserError: it can't be loaded, is no ViLT, or is to keep a head that it does not have.
    """
    options = options or {}
    try:
        config = AutoConfig.from_pretrained(name)
        if config.model_type not in MODELS:
            raise UserError(f"{name}: a {config.model_type} model, not ViLT; choose another.")
        new_head = bool(options) and config.label2id != options["label2id"]
        model_class, image_processor_class = MODELS[config.model_type]
        model, report = model_class.from_pretrained(
            name,
            **options,
            ignore_mismatched_sizes=bool(options),
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        if report["missing_keys"] and not options:
            raise UserError(
                f"{name}: it has no trained answers ({min(report['missing_keys'])} is missing); train it first."
            )
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        processor = ViltProcessor(image_processor_class.from_pretrained(name), tokenizer)
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".:")
        hint = "" if Path(name).is_dir() else "; without a Hub, start from starter or scratch:small"
        raise UserError(f"{name}: can't be loaded as a folder or from the Hub ({reason}){hint}.") from error
    if new_head:  # also where the sizes happen to match: the old rows mean other answers
        _reset_head(model)
    return model, processor


def _reset_head(model: AnyVilt) -> None:
    heads = [module for name, module in model.named_modules() if name.endswith("classifier")]
    for module in (module for head in heads for module in head):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=model.config.initializer_range)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()


def _from_scratch(size: str, labels: dict, questions: Iterable[str]) -> tuple[ViltForQuestionAnswering, ViltProcessor]:
    if size not in SCRATCH:
        raise UserError(f"scratch:{size}: unknown size; choose {' or '.join(sorted(SCRATCH))}.")
    tokenizer = build_tokenizer(questions)
    config = ViltConfig(**SCRATCH[size], **labels, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    image_processor = ViltImageProcessorPil(size={"shortest_edge": config.image_size}, size_divisor=config.patch_size)
    return ViltForQuestionAnswering(config), ViltProcessor(image_processor, tokenizer)


def build_vocabulary(answers: Iterable[str]) -> list[str]:
    """The distinct answers, sorted. Answers that SQuAD's normalisation makes equal are one, in its most frequent
    spelling (of equally frequent ones the first in the alphabet)."""
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for answer in answers:
        spellings[answer_key(answer)][answer] += 1
    return sorted(min(counts, key=lambda answer: (-counts[answer], answer)) for counts in spellings.values())


def answer_key(answer: str) -> str:
    """What two answers must share to be the same answer."""
    return normalize_answer(answer) or answer.lower()


def labels_of(answers: Iterable[str], label2id: dict[str, int]) -> dict[str, int]:
    """The label id of each given answer that is in the vocabulary."""
    ids = {answer_key(label): i for label, i in label2id.items()}
    return {answer: ids[key] for answer in set(answers) if (key := answer_key(answer)) in ids}


def build_tokenizer(questions: Iterable[str], max_length: int = 40) -> PreTrainedTokenizerFast:
    """A BERT-style WordPiece tokenizer whose words are those of the questions; other words are spelt by characters."""
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = {word for q in set(questions) for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(q))}
    characters = {character for word in words for character in word} | {*string.ascii_lowercase, *string.digits}
    pieces = sorted(words | characters | {f"##{character}" for character in characters if character.isalnum()})
    vocabulary = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        **{f"{token.strip('[]').lower()}_token": token for token in SPECIAL_TOKENS},
    )


def describe_run(model: AnyVilt) -> dict[str, Any]:
    """What a checkpoint's config must hold to belong to a run with this model."""
    config = model.config.to_dict()
    return {name: config.get(name) for name in ("model_type", "label2id", "hidden_size", "num_hidden_layers")}


def _report_vocabulary(config: ViltConfig, dataset: datasets.DatasetDict) -> None:
    for split in ("validation", "test"):
        if split in dataset:
            answers = dataset[split]["answer"]
            known = labels_of(answers, config.label2id)
            missing = sum(answer not in known for answer in answers)
            logger.info(
                "%d answers in the vocabulary; %d of %d %s answers are not among them: Exact Match can reach %.2f %%.",
                *(len(config.label2id), missing, len(answers), split, 100 * (1 - missing / len(answers))),
            )


def _report_cut_questions(processor: ViltProcessor, config: ViltConfig, dataset: datasets.DatasetDict) -> None:
    limit = config.max_position_embeddings
    for split, rows in dataset.items():
        counts = Counter(rows["question"])
        lengths = map(len, processor.tokenizer(list(counts), verbose=False)["input_ids"])
        cut = sum(count for count, length in zip(counts.values(), lengths, strict=True) if length > limit)
        if cut:
            logger.warning("%d %s questions are longer than %d tokens and are cut.", cut, split, limit)


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
