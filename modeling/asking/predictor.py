"""Asks a trained model: `Predictor.from_pretrained("user/name").answer("x.png", "Is this a CT scan?")`."""

import hashlib
import logging
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from modeling.asking.batching import Batching, Call
from modeling.asking.loading import choose_device, choose_dtype, find_model
from modeling.parts.evidence import Evidence
from modeling.parts.family_predictor import FamilyPredictor, RankedAnswers, Row
from modeling.parts.kept_features import BATCH_SIZE as IMAGE_BATCH_SIZE
from modeling.parts.question_words import QuestionWords
from processing.choices import option_texts
from processing.errors import UserError, describe_error, shorten
from processing.image_source import label_of
from processing.images import ImageSource, errors_name_image, open_image, read_image
from processing.utils import MAX_QUESTION_CHARACTERS

logger = logging.getLogger(__name__)

BATCH_SIZE = 64  # questions a forward, as in evaluation
KEPT_IMAGES = 16  # whose encodings stay in memory; with fewer, ten visitors push out each other's
KEPT_SECONDS = 540  # after the last question about an image its encoding goes
FORGET_SECONDS = 30  # between two looks for such encodings


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
        question_cut: the question was longer than the model reads, so its end was left out.
        silent: the model gives no answer at so little confidence. `answer` is "" and `confidence` that of its
            likeliest answer, which stands first among the alternatives.
        evidence: where the model finds what the question and its likeliest answer are about; None for a model that
            was trained without boxes.
        unlike_training: the training had few or no questions like this one, by its words; False for a model that kept
            no words of its training questions.
    """

    answer: str
    confidence: float
    alternatives: tuple[Alternative, ...] = ()
    question_cut: bool = False
    silent: bool = False
    evidence: Evidence | None = None
    unlike_training: bool = False


class Predictor:
    """A trained model that answers as it did in the evaluation of its training.

    Several threads may ask it: what they ask at the same time is answered together. The encodings of the last few
    images are kept, by the digest of their content, until nobody has asked about the image for `KEPT_SECONDS`; a
    thread looks for those every `FORGET_SECONDS` while there are any. Neither an image nor its name is kept.

    Args:
        backend: the loaded model of a family.
        question_words: of its training questions.
        commit: of its repo on the Hub; None of a folder.
    """

    def __init__(
        self, backend: FamilyPredictor, question_words: QuestionWords | None = None, commit: str | None = None
    ) -> None:
        self.backend = backend
        self.question_words = question_words
        self.commit = commit
        self._batching = Batching(BATCH_SIZE)  # tokenizers too are for one thread at a time
        self._lock = threading.Lock()  # of what is kept: it is looked up while the model works
        self._kept: OrderedDict[str, tuple[float, Any]] = OrderedDict()  # when it was last used, and the encoding
        self._forgetter: threading.Timer | None = None

    @property
    def model(self) -> Any:
        """The network."""
        return self.backend.model

    @property
    def processor(self) -> Any:
        """The processor of images and text."""
        return self.backend.processor

    @property
    def abstention_threshold(self) -> float:
        """The confidence below which the model gives no answer."""
        return self.backend.abstention_threshold

    @staticmethod
    def from_pretrained(
        name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> "Predictor":
        """Loads a ViLT, a starter, an adapter with its base, or a whole BLIP-2 or image-text-to-text model.

        Its files say which it is.

        Args:
            name: a folder, or a Hub id, served from the cache where there is no Hub.
            revision: branch, tag or commit of a Hub id; by default main.
            device: by default the GPU, where there is one.
            dtype: float32, float16 or bfloat16. The default is training's: float16 on a GPU, bfloat16 on a CPU that
                is fast at it, else float32.

        Raises:
            UserError: there is no such model, it can't be loaded, or its weights are not safetensors.
        """
        chosen = choose_device(device)
        precision = choose_dtype(dtype, chosen)
        family, files = find_model(name, revision)
        question_words = QuestionWords.from_pretrained(files)
        return Predictor(family.load_predictor(files, chosen, precision), question_words, files.commit)

    def answer(
        self, image: ImageSource, question: str, top_k: int = 5, choices: Sequence[str] | None = None
    ) -> Answer:
        """Answers a question about an image.

        Args:
            image: path, bytes or file object of an image file that `processing.images.open_image` reads, or a PIL
                image. A path may name a frame, page or slice, as in `scan.dcm#12`.
            question: is cut where it is longer than the model reads.
            top_k: the answer and up to `top_k - 1` alternatives. 1 saves a model that writes its answers the work for
                them.
            choices: the options that the answer is one of, two or more. Letters in front of them (A:, B:) are left
                out. The confidence is then the probability among them. ViLT chooses among those that it knows from its
                training, and gives its own answer where it knows none.

        Raises:
            UserError: an image that can't be opened, an empty question, one that is too long to be cut, or fewer than
                two different choices.
        """
        return self.answer_batch(image, [question], top_k, None if choices is None else [choices])[0]

    def answer_batch(
        self,
        images: ImageSource | list[ImageSource],
        questions: Sequence[str],
        top_k: int = 5,
        choices: Sequence[Sequence[str] | None] | None = None,
    ) -> list[Answer]:
        """Answers many questions; those about the same image share its encoding.

        Args:
            images: one image for all questions, or a list with the image of each.
            questions: as for `answer`.
            top_k: as for `answer`.
            choices: those of each question, None where it has none.

        Raises:
            UserError: as `answer`, for the first question that fails.
        """
        answers = []
        images = images if isinstance(images, list) else [images] * len(questions)
        for result in self.try_batch(images, questions, top_k, choices):
            if isinstance(result, UserError):
                raise result
            answers.append(result)
        return answers

    def try_batch(
        self,
        images: Sequence[ImageSource],
        questions: Sequence[str],
        top_k: int = 5,
        choices: Sequence[Sequence[str] | None] | None = None,
    ) -> list[Answer | UserError]:
        """Answers questions, each about its own image; where one fails its error stands among the answers.

        No image or question costs another its answer, whatever it raises.
        """
        if len(images) != len(questions):
            raise UserError(f"{len(images)} images for {len(questions)} questions; give one image, or one for each.")
        options = [None] * len(questions) if choices is None else choices
        if len(options) != len(questions):
            raise UserError(f"{len(options)} lists of choices for {len(questions)} questions; give one for each.")
        if top_k < 1:
            raise UserError(f"top_k {top_k}: must be at least 1.")
        results: list[Answer | UserError] = []
        for start in range(0, len(questions), BATCH_SIZE):
            end = start + BATCH_SIZE
            results += self._try_one_batch(images[start:end], questions[start:end], top_k, options[start:end])
        return results

    def heat_map(self, image: ImageSource, question: str, answer: str | None = None) -> np.ndarray:
        """Where the model looked for an answer, by gradient-weighted attention (`modeling.parts.relevance`).

        It takes the gradient of the answer's logit, in float32, or of the log-likelihood of a written answer.

        Args:
            image: as for `answer`.
            question: as for `answer`.
            answer: by default the model's own.

        Returns:
            The relevance of each image token, ``(rows, columns)`` of the grid that covers the whole image. It is never
            negative and sums to 1. It is uniform where nothing in the image speaks for the answer.

        Raises:
            UserError: as `answer`, or a model that chooses among answers does not know this one.
        """
        one_line = _one_line(question)
        encoded: dict[str, Any] = {}
        fresh: dict[str, Any] = {}
        key = self._read(image, encoded, fresh)
        with self._batching.alone():
            with torch.inference_mode():
                fitted, _ = self.backend.fit_question(one_line)
                row = {"row": 0, "image": key, "question": fitted}
                self._encode(encoded, fresh)
                if answer is None:
                    best, *_ = self.backend.rank_answers([row], encoded, 1)[0]
                    answer = best[0]
            with torch.inference_mode(False):  # gradients are on in it, even where the caller is in inference mode
                return self.backend.heat_map({**row, "answer": answer}, encoded)

    def _try_one_batch(
        self,
        images: Sequence[ImageSource],
        questions: Sequence[str],
        top_k: int,
        choices: Sequence[Sequence[str] | None],
    ) -> list[Answer | UserError]:
        results: dict[int, Answer | Exception] = {}
        rows: dict[int, Row] = {}
        keys: dict[Hashable, str] = {}
        encoded: dict[str, Any] = {}
        fresh: dict[str, Any] = {}
        for number, (image, question, options) in enumerate(zip(images, questions, choices, strict=True)):
            try:
                one_line = _one_line(question)
                own = {} if options is None else {"choices": _texts(options)}
                source = image if isinstance(image, Hashable) else id(image)
                if source not in keys:
                    keys[source] = self._read(image, encoded, fresh)
                rows[number] = {"row": number, "image": keys[source], "question": one_line, **own}
            except Exception as error:
                results[number] = error
        if rows:
            call = Call(list(rows.values()), encoded, fresh, top_k)
            results |= dict(zip(rows, self._batching.ask(call, self._rank), strict=True))
        cut = sum(isinstance(result, Answer) and result.question_cut for result in results.values())
        if cut:
            logger.warning("%d questions are longer than the model reads and are cut.", cut)
        return [_answer_or_user_error(results[number], images[number]) for number in range(len(questions))]

    @torch.inference_mode()
    def _rank(self, call: Call) -> list[Answer | Exception]:
        """The answers to the rows of a call; if they fail together, each is asked alone."""
        rows, encoded = call.rows, call.encoded
        try:
            fitted = [self.backend.fit_question(row["question"]) for row in rows]
            self._encode(encoded, call.fresh)
            asked = [row | {"question": question} for row, (question, _) in zip(rows, fitted, strict=True)]
            ranked = self.backend.rank_answers(asked, encoded, call.top_k)
            answered = [row | {"answer": best} for row, ((best, _), *_) in zip(asked, ranked, strict=True)]
            evidence = self.backend.find_evidence(answered, encoded)
            columns = zip(rows, ranked, fitted, evidence, strict=True)
            return [self._answer(row["question"], answers, cut, found) for row, answers, (_, cut), found in columns]
        except Exception as error:
            if len(rows) == 1:
                return [error]
            logger.warning(
                "%d questions can't be asked together (%s), so each is asked alone.", len(rows), describe_error(error)
            )
        results: list[Answer | Exception] = []
        for row in rows:
            own = {row["image"]: call.fresh[row["image"]]} if row["image"] not in encoded else {}
            results += self._rank(Call([row], encoded, own, call.top_k))
        return results

    def _answer(self, question: str, ranked: RankedAnswers, cut: bool, evidence: Evidence | None) -> Answer:
        (text, confidence), *others = ranked
        silent = confidence < self.abstention_threshold
        if silent:
            text, others = "", ranked
        unlike = self.question_words is not None and self.question_words.are_unlike(question)
        return Answer(text, confidence, tuple(Alternative(*other) for other in others), cut, silent, evidence, unlike)

    def _read(self, source: ImageSource, encoded: dict[str, Any], fresh: dict[str, Any]) -> str:
        """The key of an image, a digest of its content.

        An encoding that is kept goes into `encoded`; else what is to be encoded goes into `fresh`.
        """
        source = open_image(source) if isinstance(source, Image.Image) else read_image(source)
        if isinstance(source, Image.Image):
            key = hashlib.sha256(source.tobytes()).hexdigest() + str(source.size)
        else:
            key = f"{hashlib.sha256(source.getbuffer()).hexdigest()}#{source.slice_number}"
        if key not in encoded and key not in fresh:
            with self._lock:
                if key in self._kept:
                    encoded[key] = self._keep(key, self._kept[key][1])
            if key not in encoded:
                with errors_name_image(source):
                    fresh[key] = self.backend.prepare_image(open_image(source))
        return key

    def _encode(self, encoded: dict[str, Any], fresh: dict[str, Any]) -> None:
        """Encodes what is in `fresh` into `encoded`, and keeps the last few encodings."""
        with self._lock:  # another thread may have asked about the same image meanwhile
            encoded |= {key: self._kept[key][1] for key in fresh if key in self._kept}
        missing = [key for key in fresh if key not in encoded]
        for start in range(0, len(missing), IMAGE_BATCH_SIZE):
            keys = missing[start : start + IMAGE_BATCH_SIZE]
            encoded |= dict(zip(keys, self.backend.encode_images([fresh[key] for key in keys]), strict=True))
        with self._lock:
            for key, encoding in encoded.items():
                self._keep(key, encoding)
            if self._kept and self._forgetter is None:
                self._look_later()

    def _keep(self, key: str, encoding: Any) -> Any:
        self._kept[key] = time.monotonic(), encoding
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT_IMAGES:
            self._kept.popitem(last=False)
        return encoding

    def _look_later(self) -> None:
        # a thread that had the predictor itself would keep a model in memory that is no longer used
        self._forgetter = threading.Timer(FORGET_SECONDS, _forget_images_of, (weakref.ref(self),))
        self._forgetter.daemon = True  # a program that ends does not wait for it
        self._forgetter.start()

    def forget_images(self) -> None:
        """Drops the encodings of images that nobody asks about any more."""
        with self._lock:
            while self._kept and next(iter(self._kept.values()))[0] < time.monotonic() - KEPT_SECONDS:
                self._kept.popitem(last=False)
            self._forgetter = None
            if self._kept:
                self._look_later()


def _forget_images_of(predictor: "weakref.ref[Predictor]") -> None:
    if alive := predictor():
        alive.forget_images()


def _answer_or_user_error(result: Answer | Exception, image: ImageSource) -> Answer | UserError:
    if isinstance(result, Answer | UserError):
        return result
    problem = f"the model can't answer this question about it ({describe_error(result)})"
    error = UserError(f"{label_of(image)}: {problem}; leave it out.")
    error.__cause__ = result
    return error


def _texts(choices: Any) -> list[str]:
    """Choices as training reads them.

    Raises:
        UserError: they are no texts, or fewer than two different ones.
    """
    texts = [] if isinstance(choices, str) else list(choices)
    if not all(isinstance(text, str) for text in texts) or len(options := option_texts(texts)) < 2:
        raise UserError(
            f"The choices {shorten(repr(choices))} are not two or more different texts; give a list of them."
        )
    return [" ".join(text.encode(errors="replace").decode().split()) for text in options]


def _one_line(question: Any) -> str:
    """A question as training reads it.

    Raises:
        UserError: it is empty or too long.
    """
    if not isinstance(question, str) or not question.strip():
        raise UserError("The question is empty; ask something about the image.")
    if len(question) > MAX_QUESTION_CHARACTERS:
        raise UserError(f"The question has {len(question):,} characters; ask in at most {MAX_QUESTION_CHARACTERS:,}.")
    return " ".join(question.encode(errors="replace").decode().split())  # tokenizers refuse half a surrogate pair
