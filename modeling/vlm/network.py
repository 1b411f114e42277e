"""Image-text-to-text models of transformers, for many questions an image."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, GenerationConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from modeling.parts.evidence import GRID
from modeling.vlm.architectures import ARCHITECTURES, Architecture
from modeling.vlm.trunks import Trunks, whole_sequences
from modeling.writing.candidates import AnswerTrie, score_by_decoder
from modeling.writing.decoding import PrefixCache, additive_mask, decode_greedily, mean_probabilities
from modeling.writing.evidence import loss_of_evidence


class PrefixReader:
    """Reads each image once for all of its questions, by an image-text-to-text model of transformers.

    Args:
        model: LoRA layers in it or not.
        architecture: of the model; by default one of the `ARCHITECTURES`.
    """

    shares_prefix = True

    def __init__(self, model: Any, architecture: Architecture | None = None) -> None:
        self.model = model
        config = model.config
        self.architecture = architecture or ARCHITECTURES[config.model_type]
        self.image_token_id: int = config.image_token_id
        text = config.get_text_config()
        layers = set(getattr(text, "layer_types", None) or ())
        self.window: int | None = text.sliding_window if "sliding_attention" in layers else None
        self.has_grids = hasattr(model.model, "get_rope_index")  # an image's positions are those of rows and columns
        self.projector: Callable[..., torch.Tensor] | None = None  # where it trains, makes features of images
        self.softcap: float | None = getattr(text, "final_logit_softcapping", None)

    def take_over(self) -> None:
        """Makes `forward` of the model this reader's, which the model has as `reader`."""
        self.model.reader = self
        self.model.accepts_loss_kwargs = True  # the loss is divided by the answer tokens of an optimizer step
        self.model.forward = self.forward

    @contextmanager
    def stock_forward(self) -> Iterator[None]:
        """The model's own `forward` for a while."""
        taken = vars(self.model).pop("forward", None)
        try:
            yield
        finally:
            if taken is not None:
                self.model.forward = taken

    def trunks(self, trunk_ids: torch.Tensor, trunk_mask: torch.Tensor, **images: Any) -> Trunks:
        """The trunks of a batch.

        Args:
            trunk_ids: as for `Trunks`.
            trunk_mask: as for `Trunks`.
            images: the other arguments of `Trunks`; where the projector trains, lists of what that takes.
        """
        if self.projector is not None:
            each = [dict(zip(images, values, strict=True)) for values in zip(*images.values(), strict=True)]
            images = {"image_features": [self.projector(**own) for own in each]}
        return Trunks(trunk_ids, trunk_mask, **images)

    def places(self, trunks: Trunks) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of tokens of trunks: the order ``(I, P)``, the position ids ``(I, P)`` or ``(3, I, P)``; and by how much the
        position of a token after an image is ahead of its order, ``(I, 1)``."""
        order = (trunks.mask.cumsum(1) - 1).clamp_min(0)
        if not self.has_grids:
            return order, order, torch.zeros_like(order[:, :1])
        positions, ahead = self.model.model.get_rope_index(
            trunks.ids,
            (trunks.ids == self.image_token_id).int(),
            image_grid_thw=torch.stack(list(trunks.grid or ())),
            attention_mask=trunks.mask.long(),
        )
        return order, positions, ahead

    def seen_by_trunks(self, trunks: Trunks) -> torch.Tensor:
        """Which of its trunk's tokens each one sees, ``(I, P, P)``."""
        length = trunks.ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=trunks.ids.device).tril()
        return causal & trunks.mask[:, None]

    def _within_images(self, trunks: Trunks) -> torch.Tensor | None:
        """Which pairs of tokens belong to one image, or one crop, of which all tokens see each other."""
        if not self.architecture.images_see_all:
            return None
        image = trunks.ids == self.image_token_id
        starts = image & ~nn.functional.pad(image, (1, 0))[:, :-1]
        block = starts.cumsum(1)
        return image[:, None] & image[:, :, None] & (block[:, None] == block[:, :, None])

    def _masks(
        self, visible: torch.Tensor, order: torch.Tensor, keys: torch.Tensor, within: torch.Tensor | None = None
    ) -> Any:
        """What attention adds to its scores.

        Args:
            visible: ``(B, Q, K)``.
            order: of the tokens that see, ``(B, Q)``.
            keys: the order of those that are seen, ``(B, K)``.
            within: what tokens of one image see beside that.
        """

        def additive(seen: torch.Tensor) -> torch.Tensor:
            return additive_mask(seen if within is None else seen | within, self.model.dtype)[:, None]

        if self.window is None:
            return additive(visible)
        near = keys[:, None] > order[:, :, None] - self.window
        return {"full_attention": additive(visible), "sliding_attention": additive(visible & near)}

    def image_outputs(self, features: Sequence[torch.Tensor]) -> dict[str, Any]:
        """Features of images as the model takes them in the place of pixels.

        Args:
            features: of each image, as for `Trunks`.
        """
        first = [levels[0] for levels in features]
        pooled: Any = torch.cat(first)[None] if self.architecture.one_tensor else first
        if len(features[0]) == 1:
            return {"image": BaseModelOutputWithPooling(pooler_output=pooled)}
        deeper = [[levels[number] for levels in features] for number in range(1, len(features[0]))]
        return {"image": BaseModelOutputWithDeepstackFeatures(pooler_output=pooled, deepstack_features=deeper)}

    def answer_states(
        self,
        trunks: Trunks,
        input_ids: torch.Tensor,
        depths: torch.Tensor,
        visible: torch.Tensor,
    ) -> torch.Tensor:
        """The last states of tokens that follow trunks, ``(S, L, width)``.

        Args:
            trunks: one a row.
            input_ids: ``(S, L)``.
            depths: place of a token after its trunk, ``(S, L)``.
            visible: which tokens after its trunk each one sees, ``(S, L, L)``.
        """
        length = trunks.ids.shape[1]
        order, positions, ahead = self.places(trunks)
        after = trunks.mask.sum(1, keepdim=True) + depths
        later = after + ahead
        if self.has_grids:
            later = later.expand(3, -1, -1)
        seen = nn.functional.pad(visible, (length, 0, length, 0))
        seen[:, :length, :length] = self.seen_by_trunks(trunks)
        seen[:, length:, :length] = trunks.mask[:, None]
        within = self._within_images(trunks)
        if within is not None:
            rest = visible.shape[1]
            within = nn.functional.pad(within, (0, rest, 0, rest))
        whole = torch.cat([order, after], dim=1)
        hidden = self.model.model(
            input_ids=torch.cat([trunks.ids, input_ids], dim=1),
            attention_mask=self._masks(seen, whole, whole, within),
            position_ids=torch.cat([positions, later], dim=-1),
            mm_encoder_outputs=self.image_outputs(trunks.features),
            use_cache=False,
        ).last_hidden_state
        return hidden[:, length:]

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Of the token after each last state, in FP32."""
        logits = self.model.get_output_embeddings()(states).float()
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        position_ids: torch.Tensor,
        visible: torch.Tensor,
        image_index: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
        evidence: dict[str, torch.Tensor] | None = None,
        **images: Any,
    ) -> CausalLMOutputWithPast:
        """The loss of answers.

        Args:
            input_ids: questions about one image a row, each with its answer but for the last token, ``(S, L)``. A
                beginning that several share stands there once.
            labels: the token that follows each input token where it belongs to the answer, else -100, ``(S, L)``.
            position_ids: place of a token after its trunk, ``(S, L)``.
            visible: which tokens of its row each token sees, ``(S, L, L)``.
            image_index: which of the images each row is about, ``(S,)``.
            num_items_in_batch: answer tokens in all batches of an optimizer step; the loss is divided by it.
            evidence: what the evidence head is to find, as `modeling.writing.evidence.evidence_targets` says.
            images: as for `trunks`.

        Returns:
            `loss`, the mean over answer tokens, and their `logits` ``(answer tokens, vocabulary)``. The loss of
            evidence is added.
        """
        trunks = self.trunks(**images)
        hidden = self.answer_states(trunks.of(image_index), input_ids, position_ids, visible)
        logits = self.logits(hidden[labels != -100])  # the vocabulary is the widest layer
        targets = labels[labels != -100]
        loss = nn.functional.cross_entropy(logits, targets, reduction="sum")
        places = None if evidence is None else self.evidence_places(trunks)
        if places is not None and evidence is not None:
            embeddings = self.model.get_input_embeddings()
            loss = loss + len(targets) * loss_of_evidence(self.model, places, None, evidence, embeddings)
        count = len(targets) if num_items_in_batch is None else num_items_in_batch
        return CausalLMOutputWithPast(loss=loss / count, logits=logits)

    def prefix_cache(self, trunks: Trunks) -> PrefixCache:
        """What the language model reads of trunks."""
        order, positions, ahead = self.places(trunks)
        within = self._within_images(trunks)
        states = DynamicCache()  # of a config it would drop what lies outside a window
        self.model.model(
            input_ids=trunks.ids,
            attention_mask=self._masks(self.seen_by_trunks(trunks), order, order, within),
            position_ids=positions,
            mm_encoder_outputs=self.image_outputs(trunks.features),
            past_key_values=states,
            use_cache=True,
        )
        return PrefixCache(states, trunks.mask, ahead)

    def read(
        self, cache: PrefixCache, input_ids: torch.Tensor, visible: torch.Tensor, order: torch.Tensor
    ) -> torch.Tensor:
        """As `modeling.writing.decoding.Reader` says."""
        keys = torch.cat([cache.order[:, : visible.shape[2] - visible.shape[1]], order], dim=1)
        positions = order + cache.ahead
        if self.has_grids:
            positions = positions.expand(3, -1, -1)
        return self.model.model(
            input_ids=input_ids,
            attention_mask=self._masks(visible, order, keys),
            position_ids=positions,
            past_key_values=cache.states,
            use_cache=True,
        ).last_hidden_state

    def evidence_places(self, trunks: Trunks) -> torch.Tensor | None:
        """What the evidence head sees of images, ``(I, width, grid, grid)``; None without a head."""
        head = getattr(self.model, "evidence", None)
        if head is None:
            return None
        grids: Sequence[torch.Tensor | None] = trunks.grid or [None] * len(trunks.features)
        dtype = head.places.dtype  # FP32, but for --bf16_full_eval and the like
        views = [self.whole_view(levels[0], grid) for levels, grid in zip(trunks.features, grids, strict=True)]
        maps = [
            nn.functional.interpolate(
                view.permute(2, 0, 1)[None].to(dtype), size=(GRID, GRID), mode="bilinear", align_corners=False
            )
            for view in views
        ]
        return head.embed_images(torch.cat(maps))

    def whole_view(self, tokens: torch.Tensor, grid: torch.Tensor | None = None) -> torch.Tensor:
        """What image tokens hold ``(tokens, ...)``, as rows and columns of the image as a whole, without its tiles.

        Args:
            grid: of the image, where it has one, ``(3,)``.
        """
        if grid is not None:
            _, rows, columns = (grid // self.model.config.vision_config.spatial_merge_size).tolist()
            return tokens.unflatten(0, (rows, columns))
        assert self.architecture.view_tokens is not None
        count = self.architecture.view_tokens(self.model.config)
        view = tokens[-count:] if self.architecture.whole_is_last else tokens[:count]
        return view.unflatten(0, (math.isqrt(count), -1))

    def stock_inputs(self, trunks: Trunks, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, Any]:
        """What the model's own `forward` and `generate` take of whole sequences.

        Args:
            trunks: one a row.
            ids: of trunk and what follows it, padded on the left, ``(B, L)``.
            mask: 1 for real tokens, ``(B, L)``.
        """
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        inputs["mm_encoder_outputs"] = self.image_outputs(trunks.features)
        if trunks.grid is not None:
            inputs["image_grid_thw"] = torch.stack(list(trunks.grid))
        if self.has_grids or self.architecture.images_see_all:
            name = "token_type_ids" if self.architecture.images_see_all else "mm_token_type_ids"
            inputs[name] = (ids == self.image_token_id).long()
        return inputs

    def generate_by_stock(
        self, trunks: Trunks, input_ids: torch.Tensor, attention_mask: torch.Tensor, config: GenerationConfig
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `generate`, by the model's own, with a trunk for each prompt."""
        ids, real, _ = whole_sequences(trunks, input_ids, attention_mask.bool())
        with self.stock_forward():
            output = self.model.generate(
                **self.stock_inputs(trunks, ids, real),
                generation_config=config,
                return_dict_in_generate=True,
                output_scores=True,
            )
        answers = output.sequences[:, ids.shape[1] :]
        return answers, mean_probabilities(self.model, output, answers, config.eos_token_id)

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_index: torch.Tensor,
        generation_config: GenerationConfig,
        **images: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Answers prompts; each image is read once, but for several beams or where nothing is shared.

        Args:
            input_ids: what follows the trunk, padded on the left, ``(B, L)``.
            attention_mask: 1 for real tokens, ``(B, L)``.
            image_index: which of the images each prompt is about, ``(B,)``.
            generation_config: with `max_new_tokens`, `pad_token_id`, `eos_token_id`, `num_beams` (1 is greedy) and
                `num_return_sequences` R, at most `num_beams`.
            images: as for `trunks`.

        Returns:
            The answers' tokens ``(B * R, T)``, with special tokens, the best answer to a prompt first, and the mean
            probability of each answer's tokens ``(B * R,)``.
        """
        trunks = self.trunks(**images)
        if self.shares_prefix and generation_config.num_beams in (None, 1):
            cache = self.prefix_cache(trunks).select(image_index)
            return decode_greedily(self, cache, input_ids, attention_mask, generation_config)
        return self.generate_by_stock(trunks.of(image_index), input_ids, attention_mask, generation_config)

    @torch.no_grad()
    def score(
        self,
        tries: Sequence[AnswerTrie],
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_index: torch.Tensor,
        **images: Any,
    ) -> torch.Tensor:
        """The log-likelihood of each answer in a prompt's trie as the answer to it, ``(B, answers)``.

        Each prompt has a trie; the other arguments are those of `generate`. Rows with fewer answers than others end in
        -inf.
        """
        cache = self.prefix_cache(self.trunks(**images)).select(image_index)
        return score_by_decoder(self, tries, cache, input_ids, attention_mask)
