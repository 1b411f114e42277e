"""BLIP-2 (Li et al. 2023, https://arxiv.org/abs/2301.12597): LoRA on the Q-Former, everything else frozen."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import torch
import transformers
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import nn
from torch.utils.data import DataLoader, Sampler
from transformers import AutoConfig, AutoTokenizer, Blip2Processor, EarlyStoppingCallback, Seq2SeqTrainer
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.blip_2.modeling_blip_2 import Blip2ForConditionalGenerationModelOutput
from transformers.trainer_utils import PredictionOutput

from metrics.vqa import generation_metrics
from modeling.arguments import Blip2TrainingArguments
from modeling.frozen_vision import KeptFeatures
from processing.collators import Blip2Collator
from processing.errors import UserError
from processing.sampling import ImageGroupedSampler

logger = logging.getLogger(__name__)

QFORMER = r"qformer\.encoder\.layer\.\d+\."
LORA_TARGETS = {
    "attention": QFORMER + r"(attention|crossattention)\.attention\.(query|key|value)",
    "dense": QFORMER + r".*\.dense",
    "projection": r"language_projection",
    "language_model": r"language_model\..*\.(q_proj|k_proj|v_proj|o_proj|out_proj|q|k|v|o|fc1|fc2"
    r"|gate_proj|up_proj|down_proj|wi|wi_0|wi_1|wo)",
}


class Blip2ForQuestionAnswering(transformers.Blip2ForConditionalGeneration):
    """The transformers class, same weights, for many questions an image.

    The Q-Former does not see the question, so what the language model reads of an image is the same for all of its
    questions: it is made once, from kept features where there are some. A decoder-only language model reads several
    questions after it in one sequence; the mask lets each see the image and itself, and its positions count on from
    the image, so losses and gradients are those of one question a sequence.
    """

    def image_prefix(
        self, pixel_values: torch.Tensor | None = None, image_embeds: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What the language model reads of images, ``(I, num_query_tokens, D)``.

        Args:
            pixel_values: ``(I, 3, H, W)``, or
            image_embeds: the vision encoder's last states of them, ``(I, patches, encoder width)``.
        """
        if image_embeds is None:
            image_embeds = self.vision_model(pixel_values).last_hidden_state
        query_tokens = self.query_tokens.expand(len(image_embeds), -1, -1)
        states = self.qformer(query_embeds=query_tokens, encoder_hidden_states=image_embeds).last_hidden_state
        return self.language_projection(states.to(self.language_projection.weight.dtype))

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        image_index: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        question_index: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **_: Any,
    ) -> Blip2ForConditionalGenerationModelOutput:
        """The loss of answers.

        Args:
            input_ids: ``(S, L)``. Encoder-decoder: a prompt a row. Decoder-only: questions about one image a row, each
                its prompt and its answer but for the last token.
            labels: encoder-decoder: the answer, ``(S, A)``. Decoder-only: the token that follows each input token
                where it belongs to the answer, ``(S, L)``. Else -100.
            image_index: which of the images each row is about, ``(S,)``.
            attention_mask: encoder-decoder: 1 for real tokens, ``(S, L)``; all by default.
            question_index: decoder-only: which question of its row a token belongs to, -1 for padding, ``(S, L)``.
            position_ids: decoder-only: place of a token within its question, ``(S, L)``.
            pixel_values, image_embeds: as for `image_prefix`.
            num_items_in_batch: answer tokens in all batches of an optimizer step; the loss is divided by it.

        Returns:
            `loss`, the mean over answer tokens, and their `logits` ``(answer tokens, vocabulary)``.
        """
        prefix = self.image_prefix(pixel_values, image_embeds)[image_index]
        text = self.get_input_embeddings()(input_ids)
        inputs_embeds = torch.cat([prefix.to(text.dtype), text], dim=1)
        length = prefix.shape[1]
        if question_index is not None and position_ids is not None:
            places = torch.arange(length, device=text.device).expand(len(text), -1)
            hidden = self.language_model.base_model(
                inputs_embeds=inputs_embeds,
                attention_mask=_shared_prefix_mask(question_index, length, text.dtype),
                position_ids=torch.cat([places, position_ids + length], dim=1),
                use_cache=False,
            ).last_hidden_state[:, length:]
            logits = self.get_output_embeddings()(hidden[labels != -100])  # the vocabulary is the widest layer
        else:
            attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            mask = nn.functional.pad(attention_mask, (length, 0), value=1)
            output = self.language_model(inputs_embeds=inputs_embeds, attention_mask=mask, labels=labels)
            logits = output.logits[labels != -100]
        logits = logits.float()
        loss = nn.functional.cross_entropy(logits, labels[labels != -100], reduction="sum")
        count = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
        return Blip2ForConditionalGenerationModelOutput(loss=loss / count, logits=logits)

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_index: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
        **options: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Answers prompts; each image is read once.

        Args:
            input_ids, attention_mask: prompts, padded on the left for a decoder-only language model, ``(B, L)``.
            image_index: which of the images each prompt is about, ``(B,)``.
            pixel_values, image_embeds: as for `image_prefix`.
            options: of transformers' `generate`, `eos_token_id` among them.

        Returns:
            The answers' tokens ``(B, T)``, with special tokens, and the mean probability of each answer's tokens
            ``(B,)``.
        """
        prefix = self.image_prefix(pixel_values, image_embeds)
        length = prefix.shape[1]
        mask = nn.functional.pad(attention_mask, (length, 0), value=1)
        options |= {"return_dict_in_generate": True, "output_scores": True}
        model = self.language_model
        if self.config.use_decoder_only_language_model:
            cache = self._prefix_cache(prefix, image_index.repeat_interleave(options.get("num_beams") or 1))
            # generate counts what is in the cache by its tokens; those of the image are never read
            ids = nn.functional.pad(input_ids, (length, 0), value=0)
            output = model.generate(ids, attention_mask=mask, past_key_values=cache, **options)
            answers = output.sequences[:, ids.shape[1] :]
        else:
            text = self.get_input_embeddings()(input_ids)
            inputs_embeds = torch.cat([prefix[image_index].to(text.dtype), text], dim=1)
            output = model.generate(inputs_embeds=inputs_embeds, attention_mask=mask, **options)
            answers = output.sequences[:, 1:]  # the decoder's start token
        beam_indices = getattr(output, "beam_indices", None)
        log_probabilities = model.compute_transition_scores(
            output.sequences, output.scores, beam_indices, normalize_logits=True
        )
        ended = (answers == options["eos_token_id"]).cumsum(1)
        real = (ended - (answers == options["eos_token_id"]).long() == 0).float()  # up to and with the end token
        confidence = (log_probabilities.exp() * real).sum(1) / real.sum(1).clamp_min(1)
        return answers, confidence

    def _prefix_cache(self, prefix: torch.Tensor, image_index: torch.Tensor) -> transformers.Cache:
        """The language model's keys and values of each image, computed once and copied to the rows about it."""
        model = self.language_model
        cache = model.base_model(inputs_embeds=prefix.to(model.dtype), use_cache=True).past_key_values
        cache.batch_select_indices(image_index)
        return cache

    @torch.no_grad()
    def score(
        self,
        candidates: "AnswerTrie",
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_index: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The log-likelihood of each candidate as the answer to each prompt, ``(B, candidates)``.

        The arguments are those of `generate`. Candidates that begin alike share their beginning.
        """
        prefix = self.image_prefix(pixel_values, image_embeds)
        model, device = self.language_model, prefix.device
        if self.config.use_decoder_only_language_model:
            cache = self._prefix_cache(prefix, image_index)
            mask = nn.functional.pad(attention_mask, (prefix.shape[1], 0), value=1)
            last = model.base_model(
                input_ids=input_ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1)[:, prefix.shape[1] :].clamp_min(0),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1:]
            inner = candidates.inner.to(device)
            ancestors = candidates.ancestors[candidates.inner][:, candidates.inner].to(device)
            visible = torch.cat(
                [mask.bool()[:, None].expand(-1, len(inner), -1), ancestors.expand(len(mask), -1, -1)], dim=2
            )
            hidden = model.base_model(
                input_ids=candidates.tokens.to(device)[inner].expand(len(mask), -1),
                attention_mask=_additive(visible, model.dtype)[:, None],
                position_ids=mask.sum(1, keepdim=True) + candidates.depths.to(device)[inner],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            states = torch.cat([last, hidden], dim=1)
            return torch.stack([candidates.likelihoods(self.get_output_embeddings()(row)) for row in states])
        text = self.get_input_embeddings()(input_ids)
        inputs_embeds = torch.cat([prefix[image_index].to(text.dtype), text], dim=1)
        mask = nn.functional.pad(attention_mask, (prefix.shape[1], 0), value=1)
        states = model.get_encoder()(inputs_embeds=inputs_embeds, attention_mask=mask).last_hidden_state
        labels = candidates.sequences.to(device)
        scores = []
        for row, row_mask in zip(states, mask, strict=True):  # T5's relative positions know no trie
            output = model(
                encoder_outputs=(row.expand(len(labels), -1, -1),),
                attention_mask=row_mask.expand(len(labels), -1),
                labels=labels,
            )
            losses = nn.functional.cross_entropy(output.logits.float().transpose(1, 2), labels, reduction="none")
            scores.append(-losses.sum(1))
        return torch.stack(scores)


class AnswerTrie:
    """The tokens of answers, where answers that begin alike share nodes.

    Args:
        answers: the tokens of each, the end token last.

    Attributes:
        tokens, depths: of each of the N nodes; the first token of an answer has depth 0.
        ancestors: whether a node's path holds another, itself included, ``(N, N)``.
        inner: the nodes that something follows.
        sequences: the answers, padded with -100.
    """

    def __init__(self, answers: Sequence[Sequence[int]]) -> None:
        nodes: dict[tuple[int, ...], int] = {}
        for answer in answers:
            for end in range(1, len(answer) + 1):
                nodes.setdefault(tuple(answer[:end]), len(nodes))
        self.tokens = torch.tensor([path[-1] for path in nodes])
        self.depths = torch.tensor([len(path) - 1 for path in nodes])
        self.ancestors = torch.zeros(len(nodes), len(nodes), dtype=torch.bool)
        for path, node in nodes.items():
            self.ancestors[node, [nodes[path[:end]] for end in range(1, len(path) + 1)]] = True
        parents = [nodes.get(path[:-1], -1) for path in nodes]
        self.inner = torch.tensor(sorted(set(parents) - {-1}), dtype=torch.long)
        row = {node: i + 1 for i, node in enumerate(self.inner.tolist())} | {-1: 0}
        self._row = torch.tensor([row[parent] for parent in parents])
        self._paths = self.ancestors[[nodes[tuple(answer)] for answer in answers]].float()
        length = max(map(len, answers))
        self.sequences = torch.tensor([[*answer, *[-100] * (length - len(answer))] for answer in answers])

    def likelihoods(self, logits: torch.Tensor) -> torch.Tensor:
        """Log-likelihoods of the answers from the logits after the prompt and after each inner node,
        ``(1 + inner, vocabulary)``."""
        log_probabilities = logits.float().log_softmax(-1)
        return self._paths.to(logits.device) @ log_probabilities[self._row, self.tokens]


def _shared_prefix_mask(question_index: torch.Tensor, prefix_length: int, dtype: torch.dtype) -> torch.Tensor:
    """An additive mask ``(S, 1, prefix + L, prefix + L)``: the prefix is causal, a question sees it and itself."""
    length = prefix_length + question_index.shape[1]
    owner = nn.functional.pad(question_index, (prefix_length, 0), value=-2)
    visible = (owner[:, :, None] == owner[:, None]) | (owner[:, None] == -2)
    visible &= torch.ones(length, length, dtype=torch.bool, device=owner.device).tril()
    return _additive(visible, dtype)[:, None]


def _additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)


def build_model(args: Blip2TrainingArguments, dataset: datasets.DatasetDict) -> tuple[PeftModel, Blip2Processor]:
    """Loads the base model, puts a new adapter on it or the one of the folder, and its processor.

    Raises:
        UserError: the checkpoint can't be loaded or is no BLIP-2, or the adapter does not fit its base.
    """
    name = args.model_name_or_path
    adapter = _adapter_config(name)
    if adapter is None and not args.do_train:
        raise UserError(f"--model_name_or_path {name}: holds no adapter to evaluate; name a trained folder.")
    base = name if adapter is None else str(adapter.base_model_name_or_path)
    model, processor = _load_base(base, args)
    if adapter is None:
        config = LoraConfig(
            r=args.lora_r,
            lora_alpha=args.lora_alpha,
            lora_dropout=args.lora_dropout,
            target_modules="|".join(rf".*{LORA_TARGETS[target]}" for target in args.lora_targets),
        )
        config.base_model_name_or_path = base
        peft_model = get_peft_model(model, config)
    else:
        peft_model = _load_adapter(model, adapter, name, args.do_train)
    _report_trained(peft_model)
    return peft_model, processor


def _load_adapter(model: nn.Module, config: PeftConfig, name: str, trainable: bool) -> PeftModel:
    try:
        peft_model = PeftModel(model, config)
        loaded = peft_model.load_adapter(name, "default", is_trainable=trainable, use_safetensors=True)
        wrong = [key for key in loaded.missing_keys if "lora_" in key] + list(loaded.unexpected_keys)
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


def _load_base(name: str, args: Blip2TrainingArguments) -> tuple[Blip2ForQuestionAnswering, Blip2Processor]:
    dtype = torch.float16 if args.fp16 else torch.bfloat16 if args.bf16 else torch.float32
    try:
        config = AutoConfig.from_pretrained(name)
        if config.model_type != "blip-2":
            raise UserError(f"--model_name_or_path {name}: a {config.model_type} model, not BLIP-2; choose another.")
        model = Blip2ForQuestionAnswering.from_pretrained(
            name, dtype=dtype, use_safetensors=True, **_quantization(args.quantization)
        )
        tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
        processor = Blip2Processor(BlipImageProcessorPil.from_pretrained(name), tokenizer, config.num_query_tokens)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(
            f"--model_name_or_path {name}: can't be loaded as a folder or from the Hub ({reason})."
        ) from error
    scaled = ("logits_scaling", "logit_scale", "final_logit_softcapping")
    if any(getattr(config.text_config, option, None) for option in scaled):
        raise UserError(f"--model_name_or_path {name}: its language model scales logits, which is not supported.")
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


def describe_run(model: PeftModel) -> dict[str, Any]:
    """What a checkpoint's adapter config must hold to belong to a run with this model."""
    config = model.peft_config["default"].to_dict()
    return {name: config[name] for name in ("base_model_name_or_path", "r", "lora_alpha", "target_modules")}


def _report_trained(model: PeftModel) -> None:
    base = model.get_base_model()
    rooms = ("vision_model", "qformer", "language_projection", "language_model")
    counts = {
        name: (sum(p.numel() for p in part), sum(p.numel() for p in part if p.requires_grad))
        for name in rooms
        for part in [list(getattr(base, name).parameters())]
    }
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
        network = _LastStates(base.vision_model.to(args.device))
        features = KeptFeatures(network, processor.image_processor, args.feature_cache_gb)
        with args.main_process_first(desc="computing image features"):
            features.fill(image for split in dataset.values() for image in split["image"])
        network.to("cpu")
        base.vision_model = None  # what is frozen and kept has no business on the device
    collator = Blip2Collator(
        processor, args.prompt, args.questions_per_image, base.config.use_decoder_only_language_model, features
    )
    columns = ("answer", "answer_type")
    rows = {row["row"]: row for split in dataset.values() for row in split.select_columns(["row", *columns])}
    _limit_answers(args, collator, dataset)
    candidates = sorted(set(dataset["train"]["answer"])) if args.answer_candidates == "train" else []
    patience = args.early_stopping_patience
    return Blip2Trainer(
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


class _LastStates(nn.Module):
    def __init__(self, vision_model: nn.Module) -> None:
        super().__init__()
        self.vision_model = vision_model

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.vision_model(pixel_values).last_hidden_state.half()


class Blip2Trainer(Seq2SeqTrainer):
    """Trains on shared prefixes; scores generated answers and, where there are candidates, the likeliest of them."""

    data_collator: Any

    def __init__(self, *args: Any, candidates: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.candidates = list(candidates)
        self.trie = (
            AnswerTrie([self.data_collator.answer_ids(answer) for answer in candidates]) if candidates else None
        )

    def _get_train_sampler(self, train_dataset: datasets.Dataset | None = None) -> Sampler[int]:
        rows = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return ImageGroupedSampler(rows["image"], self.args.questions_per_image, seed)

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
                do_sample=False,
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
    return {
        int(row): (answer, float(sure))
        for row, answer, sure in zip(output.label_ids, answers, confidence, strict=True)
    }
