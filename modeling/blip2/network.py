"""BLIP-2 (Li et al. 2023, https://arxiv.org/abs/2301.12597) for many questions an image."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import transformers
from torch import nn
from transformers import Blip2Config, GenerationConfig, initialization
from transformers.models.blip_2.modeling_blip_2 import Blip2ForConditionalGenerationModelOutput

from modeling.parts.efficientnet_tokens import as_maps
from modeling.parts.evidence import GRID, EvidenceHead
from modeling.parts.kept_features import one_per_question
from modeling.writing.candidates import AnswerTrie, score_by_decoder, score_by_encoder_decoder
from modeling.writing.decoding import CausalReader, decode_greedily, mean_probabilities, shared_prefix_mask
from modeling.writing.evidence import MODULE, loss_of_evidence


class Blip2ForQuestionAnswering(transformers.Blip2ForConditionalGeneration):
    """The transformers class, same weights, for many questions an image.

    The Q-Former does not see the question, so the language model reads the same states of an image for all of its
    questions. They are computed once, from kept features where there are some. A decoder-only language model reads
    several questions after them in one sequence, a tree where questions begin alike. The mask lets each question see
    the image and itself, and its positions continue from the image, so losses and gradients equal those of one
    question a sequence.

    An evidence head over the vision encoder's states is there where the config has `evidence_labels`.
    """

    _keep_in_fp32_modules_strict: ClassVar = {MODULE}
    vision_model: Any  # None once it is taken
    evidence: EvidenceHead | None

    def __init__(self, config: Blip2Config) -> None:
        super().__init__(config)
        self._make_evidence_head(config.vision_config.hidden_size)

    def _make_evidence_head(self, num_channels: int) -> None:
        """Makes one over `vision_maps` of so many channels."""
        self.evidence = None
        if getattr(self.config, "evidence_labels", None):
            self.evidence = self._new_evidence_head(num_channels, self.get_input_embeddings().embedding_dim)

    def _new_evidence_head(self, num_channels: int, text_width: int) -> EvidenceHead:
        return EvidenceHead(num_channels, text_width, GRID)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, EvidenceHead):  # by PyTorch's own way: BLIP-2's 0.02 is for wide layers
            initialization.zeros_(module.places)
            part: Any
            for part in module.modules():
                if hasattr(part, "reset_parameters"):
                    part.reset_parameters()

    def train(self, mode: bool = True) -> "Blip2ForQuestionAnswering":
        """Parts without a trainable parameter stay as in evaluation, without dropout."""
        super().train(mode)
        for part in (self.vision_model, self.language_model):
            if part is not None and not any(p.requires_grad for p in part.parameters()):
                _keep_evaluating(part, mode)
        return self

    def take_frozen_vision(self) -> nn.Module:
        """Removes the frozen vision encoder and returns it, as a network from pixels to `image_embeds`."""
        network, self.vision_model = _LastStates(self.vision_model), None
        return network

    def image_prefix(
        self, pixel_values: torch.Tensor | None = None, image_embeds: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What the language model reads of images, ``(I, num_query_tokens, D)``; arguments as for `vision_states`."""
        states, _ = self.vision_states(pixel_values, image_embeds)
        return self._projected(states, self.evidence_places(states))

    def _projected(self, vision_states: torch.Tensor, places: torch.Tensor | None) -> torch.Tensor:
        states = self.query_states(vision_states, places)
        return self.language_projection(states.to(self.language_projection.weight.dtype))

    def vision_states(
        self, pixel_values: torch.Tensor | None = None, image_embeds: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The vision encoder's last states ``(I, patches, encoder width)``.

        Args:
            pixel_values: ``(I, 3, H, W)``. Instead of them
            image_embeds: are what the network of `take_frozen_vision` makes of them.

        Returns:
            Them, and the random moves of the images ``(I, 2, 3)``, None where there are none.
        """
        if image_embeds is None:
            image_embeds = self.vision_model(pixel_values).last_hidden_state
        return image_embeds, None

    def vision_maps(self, vision_states: torch.Tensor) -> torch.Tensor:
        """What the evidence head sees of the vision states, ``(I, channels, GRID, GRID)`` in FP32."""
        maps, size = as_maps(vision_states.float()), (GRID, GRID)
        if maps.shape[2:] == size:
            return maps
        return nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)

    def evidence_places(self, vision_states: torch.Tensor) -> torch.Tensor | None:
        """What the evidence head sees of images, ``(I, width, grid, grid)``; None without a head."""
        if self.evidence is None:
            return None
        dtype = self.evidence.places.dtype  # FP32, but for --bf16_full_eval and the like
        return self.evidence.embed_images(self.vision_maps(vision_states).to(dtype))

    @torch.no_grad()
    def places_of_images(self, image_index: torch.Tensor, **images: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """What the evidence head sees of the images of a batch, and which of them each row is about.

        Args:
            image_index: of the batch, ``(B,)``.
            images: its `pixel_values` or `image_embeds`.
        """
        states, _ = self.vision_states(images.get("pixel_values"), images.get("image_embeds"))
        places = self.evidence_places(states)
        assert places is not None  # there is a head
        return places, image_index

    def query_states(self, vision_states: torch.Tensor, places: torch.Tensor | None = None) -> torch.Tensor:
        """The Q-Former's last states of images, ``(I, num_query_tokens, Q-Former width)``.

        Args:
            vision_states: of the method of that name.
            places: of `evidence_places`.
        """
        query_tokens = self.queries.expand(len(vision_states), -1, -1)
        return self.qformer(query_embeds=query_tokens, encoder_hidden_states=vision_states).last_hidden_state

    @property
    def queries(self) -> nn.Parameter:
        """The query tokens, ``(1, num_query_tokens, Q-Former width)``."""
        return self.query_tokens

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        image_index: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        visible: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
        evidence: dict[str, torch.Tensor] | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **_: Any,
    ) -> Blip2ForConditionalGenerationModelOutput:
        """The loss of answers.

        Args:
            input_ids: ``(S, L)``. Encoder-decoder: a prompt a row. Decoder-only: questions about one image a row, each
                with its answer but for the last token. A beginning that several share stands there once.
            labels: encoder-decoder: the answer, ``(S, A)``. Decoder-only: the token that follows each input token
                where it belongs to the answer, ``(S, L)``. -100 elsewhere.
            image_index: which of the images each row is about, ``(S,)``.
            attention_mask: encoder-decoder: 1 for real tokens, ``(S, L)``; all by default.
            position_ids: decoder-only: place of a token within its question, ``(S, L)``.
            visible: decoder-only: which tokens of its row each token sees, ``(S, L, L)``.
            pixel_values: as for `vision_states`.
            image_embeds: as for `vision_states`.
            evidence: what the evidence head is to find, as `modeling.writing.evidence.evidence_targets` says.
            num_items_in_batch: answer tokens in all batches of an optimizer step; the loss is divided by it.

        Returns:
            `loss`, the mean over answer tokens, and their `logits` ``(answer tokens, vocabulary)``. The loss of
            evidence is added. Of several batches, each counts by its answer tokens, so that their sum is a mean too.
        """
        vision_states, moves = self.vision_states(pixel_values, image_embeds)
        evidence_places = self.evidence_places(vision_states)
        prefix = one_per_question(self._projected(vision_states, evidence_places), image_index)
        text = self.get_input_embeddings()(input_ids)
        inputs_embeds = torch.cat([prefix.to(text.dtype), text], dim=1)
        length = prefix.shape[1]
        if visible is not None and position_ids is not None:
            places = torch.arange(length, device=text.device).expand(len(text), -1)
            hidden = self.language_model.base_model(
                inputs_embeds=inputs_embeds,
                attention_mask=shared_prefix_mask(visible, length, text.dtype),
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
        own = (labels != -100).sum()
        if evidence_places is not None and evidence is not None:
            loss = loss + own * loss_of_evidence(self, evidence_places, moves, evidence, self.get_input_embeddings())
        count = own if num_items_in_batch is None else num_items_in_batch
        return Blip2ForConditionalGenerationModelOutput(loss=loss / count, logits=logits)

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_index: torch.Tensor,
        generation_config: GenerationConfig,
        pixel_values: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Answers prompts; each image is read once.

        Args:
            input_ids: prompts, padded on the left for a decoder-only language model, ``(B, L)``.
            attention_mask: 1 for real tokens, ``(B, L)``.
            image_index: which of the images each prompt is about, ``(B,)``.
            generation_config: with `max_new_tokens`, `pad_token_id`, `eos_token_id`, `num_beams` (1 is greedy) and
                `num_return_sequences` R, at most `num_beams`.
            pixel_values: as for `vision_states`.
            image_embeds: as for `vision_states`.

        Returns:
            The answers' tokens ``(B * R, T)``, with special tokens, the best answer to a prompt first, and the mean
            probability of each answer's tokens ``(B * R,)``.
        """
        prefix = self.image_prefix(pixel_values, image_embeds)
        length = prefix.shape[1]
        mask = nn.functional.pad(attention_mask, (length, 0), value=1)
        decoder_only, num_beams = self.config.use_decoder_only_language_model, generation_config.num_beams
        model = self.language_model
        if decoder_only and num_beams == 1:
            reader = CausalReader(model)
            cache = reader.prefix_cache(prefix).select(image_index)
            return decode_greedily(reader, cache, input_ids, attention_mask, generation_config)
        options = {"generation_config": generation_config, "return_dict_in_generate": True, "output_scores": True}
        if decoder_only:
            cache = CausalReader(model).prefix_cache(prefix).select(image_index.repeat_interleave(num_beams)).states
            # generate counts the tokens of the cache; those of the image are never read
            ids = nn.functional.pad(input_ids, (length, 0), value=0)
            output = model.generate(ids, attention_mask=mask, past_key_values=cache, **options)
            answers = output.sequences[:, ids.shape[1] :]
        else:
            text = self.get_input_embeddings()(input_ids)
            inputs_embeds = torch.cat([prefix[image_index].to(text.dtype), text], dim=1)
            output = model.generate(inputs_embeds=inputs_embeds, attention_mask=mask, **options)
            answers = output.sequences[:, 1:]  # the decoder's start token
        return answers, mean_probabilities(model, output, answers, generation_config.eos_token_id)

    @torch.no_grad()
    def score(
        self,
        tries: Sequence[AnswerTrie],
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_index: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The log-likelihood of each answer in a prompt's trie as the answer to it, ``(B, answers)``.

        Each prompt has a trie; the other arguments are those of `generate`. Answers that begin alike share their
        beginning. Rows with fewer answers than others end in -inf.
        """
        prefix = self.image_prefix(pixel_values, image_embeds)
        if self.config.use_decoder_only_language_model:
            reader = CausalReader(self.language_model)
            cache = reader.prefix_cache(prefix).select(image_index)
            return score_by_decoder(reader, tries, cache, input_ids, attention_mask)
        mask = nn.functional.pad(attention_mask, (prefix.shape[1], 0), value=1)
        text = self.get_input_embeddings()(input_ids)
        inputs_embeds = torch.cat([prefix[image_index].to(text.dtype), text], dim=1)
        return score_by_encoder_decoder(self.language_model, tries, inputs_embeds, mask)


def _keep_evaluating(part: nn.Module, mode: bool) -> None:
    """Puts a frozen part in evaluation mode. Layers whose states are recomputed are in `mode`, without dropout.

    transformers recomputes states in training mode alone.
    """
    for module in part.eval().modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = mode
            for name, value in vars(module).items():
                if "drop" in name and isinstance(value, float):
                    setattr(module, name, 0.0)


class _LastStates(nn.Module):
    def __init__(self, vision_model: nn.Module) -> None:
        super().__init__()
        self.vision_model = vision_model

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.vision_model(pixel_values).last_hidden_state.half()
