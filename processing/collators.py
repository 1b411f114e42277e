"""Rows in, batches of tensors out."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Blip2Processor, ViltProcessor

from processing.batch_images import BatchImages, FeatureLookup, ImageLookup, ResizedImages
from processing.packing import QuestionTree, pack_questions, padded, visible_tokens
from processing.utils import QuestionAnswer, answer_ids, prompt_ids, question_answer_ids, tokenize_questions

Rows = Sequence[Mapping[str, Any]]


class ViltCollator:
    """Builds ViLT batches.

    Args:
        processor: its tokenizer cuts questions at `max_question_length` tokens.
        label_of: the label id of an answer, None for an answer outside the vocabulary.
        num_labels: size of the answer vocabulary.
        max_question_length: in tokens, special tokens included.
        share_images: give an image once, however many rows of the batch ask about it.
        features: features of a frozen vision network by image path, ``(channels, height, width)``, for models that
            take them instead of pixels.
        features_name: what the model calls them.
        images: resized images; by default each is read and resized once.
        states: those of a frozen text encoder by question, ``(tokens, width)``.
    """

    def __init__(
        self,
        processor: ViltProcessor,
        label_of: Mapping[str, int],
        num_labels: int,
        max_question_length: int,
        share_images: bool = False,
        features: FeatureLookup | None = None,
        images: ImageLookup | None = None,
        states: Mapping[str, torch.Tensor] | None = None,
        features_name: str = "image_embeds",
    ) -> None:
        self.processor = processor
        self.label_of = label_of
        self.num_labels = num_labels
        self.max_question_length = max_question_length
        resized = ResizedImages(processor.image_processor) if images is None else images
        self.images = BatchImages(processor.image_processor, resized, features, share_images, features_name)
        self.states = states

    def __call__(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Returns what `prompts` does, and `labels` ``(B, num_labels)`` as float targets.

        The labels of an unknown answer are all zero.
        """
        labels = torch.zeros(len(rows), self.num_labels)
        for position, row in enumerate(rows):
            label = self.label_of.get(row["answer"])
            if label is not None:
                labels[position, label] = 1.0
        return self.prompts(rows) | {"labels": labels}

    def prompts(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Returns the questions, the images and `row` ``(B,)``, the numbers of the rows.

        Questions are `input_ids`, `token_type_ids` and `attention_mask` ``(B, L)``, padded to the longest one, and
        `text_states` ``(B, L, width)`` where states of questions are kept.

        Images are `pixel_values` ``(I, 3, H, W)`` and `pixel_mask` ``(I, H, W)``, padded to the largest one, or
        the features ``(I, channels, height, width)`` where they are kept. With `share_images` they are the
        distinct ones, and `image_index` ``(B,)`` says which of them a row is about. Otherwise there is one a row.
        """
        questions = [row["question"] for row in rows]
        batch = tokenize_questions(self.processor.tokenizer, questions, self.max_question_length)
        if self.states is not None:
            batch["text_states"] = pad_sequence([self.states[question] for question in questions], batch_first=True)
        batch |= self.images.batch([row["image"] for row in rows])
        if not self.images.shared:
            del batch["image_index"]  # the stock ViLT doesn't take it
        return batch | {"row": torch.tensor([row["row"] for row in rows])}


class Blip2Collator:
    """Builds BLIP-2 batches: called, to train on answers; by `prompts`, to generate them.

    Args:
        processor: of images and text.
        prompt: with one `{}` for the question.
        questions_per_image: largest number of questions that share an image in one sequence (decoder-only).
        decoder_only: the kind of the language model.
        features: features of the vision encoder by image path, ``(patches, width)``, instead of pixels.
        end_token_id: ends an answer; by default the tokenizer's.
        max_length: tokens of a prompt and its answer together; longer answers are cut. None is no limit.
    """

    def __init__(
        self,
        processor: Blip2Processor,
        prompt: str,
        questions_per_image: int,
        decoder_only: bool,
        features: FeatureLookup | None = None,
        end_token_id: int | None = None,
        max_length: int | None = None,
    ) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.prompt = prompt
        self.questions_per_image = questions_per_image
        self.decoder_only = decoder_only
        self.end_token_id = end_token_id
        self.max_length = max_length
        self.images = BatchImages(processor.image_processor, ResizedImages(processor.image_processor), features)

    def with_image_for_each_row(self) -> "Blip2Collator":
        """This collator, but each row has a sequence and an image of its own, as heat maps need."""
        collator = copy.copy(self)
        collator.images = replace(self.images, shared=False)
        return collator

    def answer_ids(self, answer: str) -> list[int]:
        """Tokens of an answer, the end token last."""
        return answer_ids(self.tokenizer, answer, self.decoder_only, self.end_token_id)

    def prompt_ids(self, question: str) -> list[int]:
        """Tokens of the prompt with a question."""
        return prompt_ids(self.tokenizer, self.prompt, question)

    def __call__(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Returns what `Blip2ForQuestionAnswering.forward` takes."""
        pairs = [self._pair(row) for row in rows]
        paths = [row["image"] for row in rows]
        if self.decoder_only:
            return self._packed(pairs, paths)
        return {
            "input_ids": padded([pair.prompt for pair in pairs], self.tokenizer.pad_token_id),
            "attention_mask": padded([[1] * len(pair.prompt) for pair in pairs], 0),
            "labels": padded([pair.answer for pair in pairs], -100),
            **self.images.batch(paths),
        }

    def _pair(self, row: Mapping[str, Any]) -> QuestionAnswer:
        pair = question_answer_ids(self.tokenizer, self.prompt, row, self.decoder_only, self.end_token_id)
        if self.max_length is None:
            return pair
        return pair._replace(answer=pair.answer[: max(1, self.max_length - len(pair.prompt))])

    def _packed(self, pairs: Sequence[QuestionAnswer], paths: Sequence[str]) -> dict[str, torch.Tensor]:
        """Pairs about one image share sequences where the batch shares images; otherwise each has its own."""
        if self.images.shared:
            trees, paths = pack_questions(pairs, paths, self.questions_per_image, self.processor.num_query_tokens)
        else:
            trees = [QuestionTree([pair]) for pair in pairs]
        return {
            "input_ids": padded([tree.tokens for tree in trees], self.tokenizer.pad_token_id),
            "labels": padded([tree.labels for tree in trees], -100),
            "position_ids": padded([[len(path) - 1 for path in tree.paths] for tree in trees], 0),
            "visible": visible_tokens(trees),
            **self.images.batch(paths),
        }

    def prompts(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Returns what `Blip2ForQuestionAnswering.generate` takes, and `row` ``(B,)``."""
        prompts = [self.prompt_ids(row["question"]) for row in rows]
        return {
            # Padding goes between image and prompt, where absolute positions skip it. T5's positions are relative,
            # so there it comes last.
            "input_ids": padded(prompts, self.tokenizer.pad_token_id, left=self.decoder_only),
            "attention_mask": padded([[1] * len(ids) for ids in prompts], 0, left=self.decoder_only),
            **self.images.batch([row["image"] for row in rows]),
            "row": torch.tensor([row["row"] for row in rows]),
        }
