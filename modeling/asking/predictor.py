"""Asks a trained model."""

import hashlib
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from modeling import blip2, vilt
from modeling.asking.loading import find_device, find_folder, find_kind
from modeling.blip2.predictor import Blip2Predictor
from modeling.parts.kept_features import BATCH_SIZE as FEATURE_BATCH
from modeling.training.arguments import cpu_has_bf16
from modeling.vilt.predictor import ViltPredictor
from processing.errors import UserError
from processing.images import ImageSource, open_image, read_image
from processing.utils import MAX_QUESTION_CHARACTERS, resize

logger = logging.getLogger(__name__)

BATCH_SIZE = 64  # questions a forward, as in evaluation

KEPT_IMAGES = 8

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

Row = dict[str, Any]

Ranked = list[tuple[str, float]]  # answers and their confidence


@dataclass(frozen=True)
class Alternative:
    """Another answer and its confidence."""

    answer: str
    confidence: float


@dataclass(frozen=True)
class Answer:
    """What a model answers.

    Args:
        answer: "" is "no answer", where a model was trained with it.
        confidence: the probability of the answer, of a written answer the mean over its tokens; calibrated on the
            validation rows of its training where there were enough.
        alternatives: other answers, the likeliest first.
        question_cut: the question was longer than the model reads, and its end was left out.
        silent: the model was trained to give no answer at so little confidence; `answer` is "", `confidence` that of
            its likeliest answer, which stands first among the alternatives.
    """

    answer: str
    confidence: float
    alternatives: tuple[Alternative, ...] = ()
    question_cut: bool = False
    silent: bool = False


class Predictor(ABC):
    """A trained model that answers as it did in the evaluation of its training; several threads may ask it.

    What the model computes of an image is kept for the last few images, told by their content.
    """

    threshold: float  # no answer below this confidence

    def __init__(self, model: Any, processor: Any, device: torch.device) -> None:
        self.model = model.to(device).eval()
        self.processor = processor
        self.device = device
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Any] = OrderedDict()

    @staticmethod
    def from_pretrained(
        name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> "Predictor":
        """Loads a ViLT, a starter, a BLIP-2 adapter with its base, or a whole BLIP-2; told apart by their files.

        Args:
            name: a folder, or a Hub id, served from the cache where there is no Hub.
            revision: branch, tag or commit of a Hub id; by default main.
            device: by default the GPU, where there is one.
            dtype: float32, float16 or bfloat16; by default what training takes: float16 on a GPU, else bfloat16 where
                the CPU is fast at it.

        Raises:
            UserError: there is no such model, it can't be loaded, or its weights are not safetensors.
        """
        device = find_device(device)
        if dtype is None:
            half = torch.bfloat16 if cpu_has_bf16() else torch.float32
            dtype = half if device.type == "cpu" else torch.float16
        elif isinstance(dtype, str):
            if dtype not in DTYPES:
                raise UserError(f"dtype {dtype}: unknown; choose {', '.join(DTYPES)}.")
            dtype = DTYPES[dtype]
        folder = find_folder(name, revision)
        kind = find_kind(name, folder)
        if kind in vilt.MODELS:
            return ViltPredictor(*vilt.load_checkpoint(str(folder)), device, dtype)
        base, adapter = blip2.find_base(str(folder))
        model, processor = blip2.load_base(base, dtype, adapter and adapter.revision)
        if adapter is not None:
            blip2.load_adapter(model, adapter, str(folder))  # its layers now stand in the base
        return Blip2Predictor(model, processor, device, blip2.Answering.of(str(folder)))

    def answer(self, image: ImageSource, question: str, top_k: int = 5) -> Answer:
        """Answers a question about an image.

        Args:
            image: path, bytes or file object of a PNG, JPEG, WebP, TIFF, BMP, GIF or DICOM file, or a PIL image.
            question: is cut where it is longer than the model reads.
            top_k: the answer and up to `top_k - 1` alternatives; 1 saves a writing model the work for them.

        Raises:
            UserError: an image that can't be opened, an empty or endless question.
        """
        return self.answer_batch(image, [question], top_k)[0]

    def answer_batch(
        self, images: ImageSource | list[ImageSource], questions: Sequence[str], top_k: int = 5
    ) -> list[Answer]:
        """Answers many questions; questions about the same image share what is computed of it.

        Args:
            images: one image for all questions, or a list with the image of each.
            questions, top_k: as for `answer`.

        Raises:
            UserError: as `answer`, for the first that fails.
        """
        answers = []
        images = images if isinstance(images, list) else [images] * len(questions)
        for result in self.try_batch(images, questions, top_k):
            if isinstance(result, UserError):
                raise result
            answers.append(result)
        return answers

    def try_batch(
        self, images: Sequence[ImageSource], questions: Sequence[str], top_k: int = 5
    ) -> list[Answer | UserError]:
        """`answer_batch` with an image for each question, where one that fails leaves its error to the others'
        answers."""
        if len(images) != len(questions):
            raise UserError(f"{len(images)} images for {len(questions)} questions; give one image, or one for each.")
        if top_k < 1:
            raise UserError(f"top_k {top_k}: must be at least 1.")
        results: list[Answer | UserError] = []
        for start in range(0, len(questions), BATCH_SIZE):
            end = start + BATCH_SIZE
            results += self._ask(images[start:end], questions[start:end], top_k)
        return results

    def heat_map(self, image: ImageSource, question: str, answer: str | None = None) -> np.ndarray:
        """Where the model looked for an answer, by gradient-weighted attention (`modeling.explain`).

        The gradient is that of the answer's logit, in float32, or of the log-likelihood of a written answer.

        Args:
            image, question: as for `answer`.
            answer: by default the model's own.

        Returns:
            The relevance of each image token, ``(rows, columns)`` of the grid that covers the whole image; never
            negative, and 1 in all. All alike where nothing in the image speaks for the answer.

        Raises:
            UserError: as `answer`, or a model that chooses among answers does not know this one.
        """
        row: Row = {"row": 0, "question": _one_line(question)}
        seen: dict[str, Any] = {}
        fresh: dict[str, np.ndarray] = {}
        row["image"] = self._read(image, seen, fresh)
        with self._lock:
            with torch.inference_mode():
                self._fit(row)
                self._keep(seen, fresh)
                row["answer"] = self._rank([row], seen, 1)[0][0][0] if answer is None else answer
            with torch.inference_mode(False):  # gradients are on in it, even where the caller is in inference mode
                return self._heat(row, seen)

    def _ask(self, images: Sequence[ImageSource], questions: Sequence[str], top_k: int) -> list[Answer | UserError]:
        errors: dict[int, UserError] = {}
        rows: dict[int, Row] = {}
        digests: dict[Hashable, str] = {}
        seen: dict[str, Any] = {}  # what is kept of an image, by its digest
        fresh: dict[str, np.ndarray] = {}
        for number, (image, question) in enumerate(zip(images, questions, strict=True)):
            source = image if isinstance(image, Hashable) else id(image)
            try:
                row = {"row": number, "question": _one_line(question)}
                if source not in digests:
                    digests[source] = self._read(image, seen, fresh)
                rows[number] = row | {"image": digests[source]}
            except UserError as error:
                errors[number] = error
        with self._lock, torch.inference_mode():  # tokenizers too are for one thread at a time
            cut = {number: self._fit(row) for number, row in rows.items()}
            self._keep(seen, fresh)
            ranked = self._rank(list(rows.values()), seen, top_k) if rows else []
        if any(cut.values()):
            logger.warning("%d questions are longer than the model reads and are cut.", sum(cut.values()))
        answers = {number: self._say(found, cut[number]) for number, found in zip(rows, ranked, strict=True)}
        return [answers.get(number) or errors[number] for number in range(len(questions))]

    def _say(self, ranked: Ranked, cut: bool) -> Answer:
        text, confidence = ranked[0]
        silent = confidence < self.threshold
        others = tuple(Alternative(*other) for other in ranked[not silent :])
        return Answer("" if silent else text, confidence, others, cut, silent)

    def _read(self, source: ImageSource, seen: Row, fresh: dict[str, np.ndarray]) -> str:
        """The digest of an image; what is kept of it goes into `seen`, or else its resized pixels into `fresh`."""
        source = open_image(source) if isinstance(source, Image.Image) else read_image(source)
        if isinstance(source, Image.Image):
            digest = hashlib.sha256(source.tobytes()).hexdigest() + str(source.size)
        else:
            digest = hashlib.sha256(source.getbuffer()).hexdigest()
        if digest not in seen and digest not in fresh:
            with self._lock:
                if digest in self._kept:
                    self._kept.move_to_end(digest)
                    seen[digest] = self._kept[digest]
            if digest not in seen:
                fresh[digest] = resize(self.processor.image_processor, open_image(source))
        return digest

    def _keep(self, seen: dict[str, Any], fresh: dict[str, np.ndarray]) -> None:
        """Puts what is made of the resized pixels in `fresh` into `seen`, and keeps the last few."""
        pixels = list(fresh.values())
        looks = [
            look for i in range(0, len(pixels), FEATURE_BATCH) for look in self._look(pixels[i : i + FEATURE_BATCH])
        ]
        seen |= dict(zip(fresh, looks, strict=True))
        self._kept |= seen
        while len(self._kept) > KEPT_IMAGES:
            self._kept.popitem(last=False)

    def _pixels(self, images: list[np.ndarray]) -> torch.Tensor:
        pixels = self.processor.image_processor(images, do_resize=False, return_tensors="pt")
        return pixels["pixel_values"].to(self.device)

    def _batch(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.device) for name, tensor in batch.items() if name != "row"}

    @abstractmethod
    def _fit(self, row: Row) -> bool:
        """Cuts a question that is longer than the model reads, and says whether it was."""

    @abstractmethod
    def _look(self, images: list[np.ndarray]) -> Sequence[Any]:
        """What is kept of images, given as ``(3, height, width)`` uint8."""

    @abstractmethod
    def _rank(self, rows: list[Row], seen: dict[str, Any], top_k: int) -> list[Ranked]:
        """The best answers to each row's question, first the answer."""

    @abstractmethod
    def _heat(self, row: Row, seen: dict[str, Any]) -> np.ndarray:
        """Where the model looked for the row's answer, ``(rows, columns)``; gradients are on."""


def best_answers(probabilities: torch.Tensor, names: Any, top_k: int) -> list[Ranked]:
    """The likeliest answers from probabilities ``(B, answers)``."""
    values, order = (part[:, :top_k].tolist() for part in probabilities.sort(descending=True, stable=True))
    return [[(names[i], value) for i, value in zip(*row, strict=True)] for row in zip(order, values, strict=True)]


def _one_line(question: Any) -> str:
    """A question as training reads it."""
    if not isinstance(question, str) or not question.strip():
        raise UserError("The question is empty; ask something about the image.")
    if len(question) > MAX_QUESTION_CHARACTERS:
        raise UserError(f"The question has {len(question):,} characters; ask in at most {MAX_QUESTION_CHARACTERS:,}.")
    return " ".join(question.encode(errors="replace").decode().split())  # tokenizers refuse half a surrogate pair
