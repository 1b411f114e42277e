"""BLIP-2 (Li et al. 2023, https://arxiv.org/abs/2301.12597) for many questions an image."""

from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.blip_2.modeling_blip_2 import Blip2ForConditionalGenerationModelOutput

from modeling.blip2.candidates import AnswerTrie
from modeling.parts.kept_features import one_per_question


class Blip2ForQuestionAnswering(transformers.Blip2ForConditionalGeneration):
    """The transformers class, same weights, for many questions an image.

    The Q-Former does not see the question, so what the language model reads of an image is the same for all of its
    questions: it is made once, from kept features where there are some. A decoder-only language model reads several
    questions after it in one sequence, a tree where they begin alike; the mask lets each see the image and itself, and
    its positions count on from the image, so losses and gradients are those of one question a sequence.
    """

    vision_model: Any  # None once it is taken

    def take_frozen_vision(self) -> nn.Module:
        """Removes the frozen vision encoder and returns it, as a network from pixels to what `query_states` takes."""
        network, self.vision_model = _LastStates(self.vision_model), None
        return network

    def image_prefix(
        self, pixel_values: torch.Tensor | None = None, image_embeds: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What the language model reads of images, ``(I, num_query_tokens, D)``; the arguments are those of
        `query_states`."""
        states = self.query_states(pixel_values, image_embeds)
        return self.language_projection(states.to(self.language_projection.weight.dtype))

    def query_states(
        self, pixel_values: torch.Tensor | None = None, image_embeds: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The Q-Former's last states of images, ``(I, num_query_tokens, Q-Former width)``.

        Args:
            pixel_values: ``(I, 3, H, W)``, or
            image_embeds: the vision encoder's last states of them, ``(I, patches, encoder width)``.
        """
        if image_embeds is None:
            image_embeds = self.vision_model(pixel_values).last_hidden_state
        query_tokens = self.queries.expand(len(image_embeds), -1, -1)
        return self.qformer(query_embeds=query_tokens, encoder_hidden_states=image_embeds).last_hidden_state

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
        num_items_in_batch: torch.Tensor | int | None = None,
        **_: Any,
    ) -> Blip2ForConditionalGenerationModelOutput:
        """The loss of answers.

        Args:
            input_ids: ``(S, L)``. Encoder-decoder: a prompt a row. Decoder-only: questions about one image a row, each
                its prompt and its answer but for the last token; what several begin with stands there once.
            labels: encoder-decoder: the answer, ``(S, A)``. Decoder-only: the token that follows each input token
                where it belongs to the answer, ``(S, L)``. Else -100.
            image_index: which of the images each row is about, ``(S,)``.
            attention_mask: encoder-decoder: 1 for real tokens, ``(S, L)``; all by default.
            position_ids: decoder-only: place of a token within its question, ``(S, L)``.
            visible: decoder-only: which tokens of its row each token sees, ``(S, L, L)``.
            pixel_values, image_embeds: as for `query_states`.
            num_items_in_batch: answer tokens in all batches of an optimizer step; the loss is divided by it.

        Returns:
            `loss`, the mean over answer tokens, and their `logits` ``(answer tokens, vocabulary)``.
        """
        prefix = one_per_question(self.image_prefix(pixel_values, image_embeds), image_index)
        text = self.get_input_embeddings()(input_ids)
        inputs_embeds = torch.cat([prefix.to(text.dtype), text], dim=1)
        length = prefix.shape[1]
        if visible is not None and position_ids is not None:
            places = torch.arange(length, device=text.device).expand(len(text), -1)
            hidden = self.language_model.base_model(
                inputs_embeds=inputs_embeds,
                attention_mask=_shared_prefix_mask(visible, length, text.dtype),
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
        *,
        max_new_tokens: int,
        pad_token_id: int,
        eos_token_id: int,
        num_beams: int = 1,
        num_return_sequences: int = 1,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Answers prompts; each image is read once.

        Args:
            input_ids, attention_mask: prompts, padded on the left for a decoder-only language model, ``(B, L)``.
            image_index: which of the images each prompt is about, ``(B,)``.
            pixel_values, image_embeds: as for `query_states`.
            max_new_tokens: length of the longest answer.
            pad_token_id, eos_token_id: what follows and what ends an answer.
            num_beams: 1 is greedy.
            num_return_sequences: answers R to each prompt, the best first; at most `num_beams`.

        Returns:
            The answers' tokens ``(B * R, T)``, with special tokens, and the mean probability of each answer's tokens
            ``(B * R,)``.
        """
        prefix = self.image_prefix(pixel_values, image_embeds)
        length = prefix.shape[1]
        mask = nn.functional.pad(attention_mask, (length, 0), value=1)
        decoder_only = self.config.use_decoder_only_language_model
        if decoder_only and num_beams == 1:
            cache = self._prefix_cache(prefix, image_index)
            return self._greedy(cache, input_ids, mask, max_new_tokens, pad_token_id, eos_token_id)
        model = self.language_model
        options: dict[str, Any] = {
            **{"max_new_tokens": max_new_tokens, "num_beams": num_beams, "do_sample": False},
            **{"pad_token_id": pad_token_id, "eos_token_id": eos_token_id},
            **{"return_dict_in_generate": True, "output_scores": True, "num_return_sequences": num_return_sequences},
        }
        if decoder_only:
            cache = self._prefix_cache(prefix, image_index.repeat_interleave(num_beams))
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
        ended = (answers == eos_token_id).cumsum(1)
        real = (ended - (answers == eos_token_id).long() == 0).float()  # up to and with the end token
        confidence = (log_probabilities.exp() * real).sum(1) / real.sum(1).clamp_min(1)
        return answers, confidence

    def _greedy(
        self,
        cache: transformers.Cache,
        input_ids: torch.Tensor,
        mask: torch.Tensor,
        max_new_tokens: int,
        pad_token_id: int,
        eos_token_id: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What transformers' `generate` gives, but rows that have ended leave the batch: there one long answer keeps
        all the short ones going.

        Args:
            cache: of what each row reads before its prompt.
            mask: of the cache's tokens and the prompt's.
        """
        count, device = len(input_ids), input_ids.device
        answers = input_ids.new_full((count, max_new_tokens), pad_token_id)
        probabilities = torch.zeros(count, max_new_tokens, device=device)
        rows = torch.arange(count, device=device)
        position_ids = (mask.cumsum(1) - 1)[:, -input_ids.shape[1] :].clamp_min(0)
        for step in range(max_new_tokens):
            hidden = self.language_model.base_model(
                input_ids=input_ids,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
            probability, token = self.get_output_embeddings()(hidden).float().softmax(-1).max(-1)
            answers[rows, step], probabilities[rows, step] = token, probability
            going = (token != eos_token_id).nonzero().squeeze(1)
            if not len(going):
                break
            if len(going) < len(rows):
                cache.batch_select_indices(going)
                rows, token, mask = rows[going], token[going], mask[going]
            mask = nn.functional.pad(mask, (0, 1), value=1)
            input_ids, position_ids = token[:, None], mask.sum(1, keepdim=True) - 1
        lengths = (probabilities > 0).sum(1)
        return answers[:, : step + 1], probabilities.sum(1) / lengths

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


class _LastStates(nn.Module):
    def __init__(self, vision_model: nn.Module) -> None:
        super().__init__()
        self.vision_model = vision_model

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.vision_model(pixel_values).last_hidden_state.half()


def _shared_prefix_mask(visible: torch.Tensor, prefix_length: int, dtype: torch.dtype) -> torch.Tensor:
    """An additive mask ``(S, 1, prefix + L, prefix + L)``: the prefix is causal, every token sees it and what
    `visible` ``(S, L, L)`` says."""
    whole = nn.functional.pad(visible, (prefix_length, 0, prefix_length, 0), value=True)
    whole[:, :prefix_length].tril_()
    return _additive(whole, dtype)[:, None]


def _additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)
