"""Asks a trained model: `Predictor.from_pretrained("user/name").answer("x.png", "Is this a CT scan?")`.

python -m modeling.predictor MODEL --image x.png --question "Is this a CT scan?" [--question ...] [--json]
python -m modeling.predictor MODEL --csv in.csv --out out.csv
"""

import argparse
import csv
import hashlib
import io
import json
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError
from PIL import Image
from tqdm import trange

from modeling import blip2, explain, vilt
from modeling.arguments import cpu_has_bf16
from modeling.blip2_model import AnswerTrie
from modeling.frozen_vision import BATCH_SIZE as FEATURE_BATCH
from processing.collators import Blip2Collator, ViltCollator, resize
from processing.errors import UserError, run_command
from processing.images import ImageSource, open_image, read_image
from processing.sources import HUB_ID, read_csv
from processing.utils import MAX_QUESTION_CHARACTERS, write_atomically
from processing.validation import file_inside

logger = logging.getLogger(__name__)

BATCH_SIZE = 64  # questions a forward, as in evaluation
KEPT_IMAGES = 8
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
ANSWER_COLUMNS = ("prediction", "confidence", "error")

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
        device = _device(device)
        if dtype is None:
            half = torch.bfloat16 if cpu_has_bf16() else torch.float32
            dtype = half if device.type == "cpu" else torch.float16
        elif isinstance(dtype, str):
            if dtype not in DTYPES:
                raise UserError(f"dtype {dtype}: unknown; choose {', '.join(DTYPES)}.")
            dtype = DTYPES[dtype]
        folder = _folder(name, revision)
        kind = _kind(name, folder)
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


class ViltPredictor(Predictor):
    """Chooses among the answers of the training."""

    def __init__(self, model: Any, processor: Any, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(model, processor, device)
        self.dtype = dtype
        self.threshold = getattr(model.config, "answer_threshold", 0.0)
        self.max_question_length = model.config.max_position_embeddings
        self.sees_once = hasattr(model, "patches")  # what it makes of an image does not depend on the question

    def _fit(self, row: Row) -> bool:
        length = len(self.processor.tokenizer(row["question"], verbose=False)["input_ids"])
        return length > self.max_question_length  # the collator cuts it

    def _look(self, images: list[np.ndarray]) -> Sequence[Any]:
        return self.model.patches(self._pixels(images)).cpu() if self.sees_once else images

    def _prompts(self, rows: list[Row], seen: dict[str, Any]) -> dict[str, torch.Tensor]:
        config = self.model.config
        lookup: dict[str, Any] = {"features" if self.sees_once else "images": seen}
        collator = ViltCollator(
            *(self.processor, {}, config.num_labels, self.max_question_length), share_images=self.sees_once, **lookup
        )
        batch = self._batch(collator.prompts(rows))
        if self.sees_once:
            batch["image_patches"] = batch.pop("image_embeds")
        return batch

    def _rank(self, rows: list[Row], seen: dict[str, Any], top_k: int) -> list[Ranked]:
        config = self.model.config
        batch = self._prompts(rows, seen)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.model(**batch).logits
        return _best(vilt.answer_probabilities(logits, config), config.id2label, top_k)

    def _heat(self, row: Row, seen: dict[str, Any]) -> np.ndarray:
        answer, config = row["answer"], self.model.config
        label = config.label2id.get(answer, vilt.labels_of([answer], config.label2id).get(answer))
        if label is None:
            mend = "ask about one of its answers, model.config.label2id"
            raise UserError(f"answer {answer!r}: not among the {config.num_labels} that the model knows; {mend}.")
        return explain.vilt_heat(self.model, self._prompts([row], seen), [label])[0]


class Blip2Predictor(Predictor):
    """Writes answers, or chooses the likeliest of its candidates."""

    def __init__(self, model: Any, processor: Any, device: torch.device, answering: blip2.Answering) -> None:
        self.vision = model.take_frozen_vision().to(device).eval()
        super().__init__(model, processor, device)
        self.answering = answering
        self.threshold = answering.threshold
        self.trie = None
        if answering.candidates:
            self.trie = AnswerTrie([self._collator().answer_ids(answer) for answer in answering.candidates])
        # T5's positions have no limit, but it was trained with 512
        length = getattr(model.config.text_config, "max_position_embeddings", 512)
        prompt = processor.tokenizer(answering.prompt)["input_ids"]
        taken = processor.num_query_tokens + len(prompt) + answering.max_new_tokens
        self.max_question_length = max(1, length - taken)

    def _collator(self, seen: dict[str, Any] | None = None) -> Blip2Collator:
        decoder_only = self.model.config.use_decoder_only_language_model
        return Blip2Collator(self.processor, self.answering.prompt, 1, decoder_only, seen)

    def _fit(self, row: Row) -> bool:
        tokenizer = self.processor.tokenizer
        ids = tokenizer(row["question"], add_special_tokens=False, verbose=False)["input_ids"]
        if cut := len(ids) > self.max_question_length:
            row["question"] = tokenizer.decode(ids[: self.max_question_length])
        return cut

    def _look(self, images: list[np.ndarray]) -> Sequence[Any]:
        return self.vision(self._pixels(images)).cpu()

    def _rank(self, rows: list[Row], seen: dict[str, Any], top_k: int) -> list[Ranked]:
        batch = self._batch(self._collator(seen).prompts(rows))
        if self.trie is not None:
            likelihoods = self.model.score(self.trie, **batch).softmax(-1)
            return self._calibrated(_best(likelihoods, self.answering.candidates, top_k))
        ranked = self._write(batch, num_beams=self.answering.num_beams)
        if top_k > 1:
            beams = self._write(batch, num_beams=top_k, num_return_sequences=top_k)
            for number, answers in enumerate(ranked):
                others = beams[number * top_k : (number + 1) * top_k]
                best_last = sorted((answer for [answer] in others), key=lambda answer: answer[1])
                distinct = dict(best_last)  # beams may differ in spaces only
                distinct.pop(answers[0][0], None)
                answers += sorted(distinct.items(), key=lambda answer: -answer[1])[: top_k - 1]
        return self._calibrated(ranked)

    def _calibrated(self, ranked: list[Ranked]) -> list[Ranked]:
        return [
            [(text, float(self.answering.calibrated(np.array(confidence)))) for text, confidence in answers]
            for answers in ranked
        ]

    def _heat(self, row: Row, seen: dict[str, Any]) -> np.ndarray:
        return explain.blip2_heat(self.model, self._batch(self._collator(seen)([row])))[0]

    def _write(self, batch: dict[str, torch.Tensor], **beams: int) -> list[Ranked]:
        tokenizer = self.processor.tokenizer
        ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
        tokens, confidence = self.model.generate(
            **batch, **ends, **beams, max_new_tokens=self.answering.max_new_tokens
        )
        answers = blip2.decode_with(self.processor)(tokens)
        return [[pair] for pair in zip(answers, confidence.tolist(), strict=True)]


def _best(probabilities: torch.Tensor, names: Any, top_k: int) -> list[Ranked]:
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


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device}: there is none here; leave it out, or choose cpu.") from error


def _folder(name: str | os.PathLike[str], revision: str | None) -> Path:
    """The folder of a model, downloaded where it is on the Hub."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"{name}: a folder has no revision {revision}; leave it out, or give a Hub id.")
        return folder
    if not HUB_ID.fullmatch(str(name)):
        raise UserError(f"{name}: there is no such folder, and it is no Hub id (user/name); check the path.")
    files = ["*.json", "*.txt", "*.model", "*.safetensors"]
    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=files, ignore_patterns="*/*"))
    except GatedRepoError as error:
        mend = "ask for access on its page and log in with `hf auth login`"
        raise UserError(f"{name}: the model is gated; {mend}.") from error
    except RepositoryNotFoundError as error:
        mend = "check the name, or log in with `hf auth login`"
        raise UserError(f"{name}: the Hub has no such model, or it is private; {mend}.") from error
    except RevisionNotFoundError as error:
        raise UserError(f"{name}: it has no revision {revision}; name a branch, tag or commit of it.") from error
    except (OSError, HTTPError, ValueError) as error:
        reason = type(error.__cause__ or error).__name__
        mend = "check the connection, or give a folder"
        raise UserError(f"{name}: not in the cache, and the Hub can't be reached ({reason}); {mend}.") from error


def _kind(name: str | os.PathLike[str], folder: Path) -> str:
    """The type of the model in a folder; `adapter` for that of a BLIP-2."""
    adapter = (folder / "adapter_config.json").is_file()
    kind = "adapter"
    if not adapter:
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            kind = config["model_type"]
        except FileNotFoundError as error:
            raise UserError(f"{name}: there is no model (no config.json); name the folder of one.") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{name}: its config.json is damaged; save or download the model again.") from error
        if kind not in (*vilt.MODELS, *blip2.MODELS):
            raise UserError(f"{name}: a {kind} model; choose a ViLT, a starter or a BLIP-2.")
    if not list(folder.glob("adapter_model.safetensors" if adapter else "*.safetensors")):
        raise UserError(
            f"{name}: it has no weights as safetensors, and pickled ones (.bin, .pt) are not loaded because they can "
            "run code; save it again with save_pretrained."
        )
    return kind


def answer_table(predictor: Predictor, table: Path, out: Path) -> int:
    """Answers the rows of a CSV file and writes them with the columns `prediction`, `confidence` and `error`, which is
    empty where there is an answer.

    Args:
        table: with the columns `image`, a path relative to the table and inside its folder, and `question`.
        out: is written whole, at the end.

    Returns:
        The number of rows with an error.

    Raises:
        UserError: the table can't be read or has not these columns, or `out` can't be written.
    """
    rows = read_csv(table)
    columns = list(rows[0]) if rows else []
    if missing := [name for name in ("image", "question") if name not in columns]:
        raise UserError(f"{table}: there is no column {missing[0]}, or no row; it needs image and question.")
    if taken := [name for name in ANSWER_COLUMNS if name in columns]:
        raise UserError(f"{table}: its column {taken[0]} is one of those to be written; rename it.")
    root = Path(os.path.realpath(table.parent))
    asked = []
    for row in rows:
        row |= dict.fromkeys(ANSWER_COLUMNS, "")
        try:
            path = file_inside(root, row["image"])
        except ValueError:  # it holds a NUL
            path = None
        if path is None:
            row["error"] = "The image path is empty or leaves the folder of the table."
        else:
            asked.append((path, row))
    asked.sort(key=lambda pair: pair[0])  # an image's questions together
    for start in trange(0, len(asked), BATCH_SIZE, desc="Answering", unit="batch"):
        paths, part = zip(*asked[start : start + BATCH_SIZE], strict=True)
        for row, result in zip(part, predictor.try_batch(paths, [row["question"] for row in part], 1), strict=True):
            if isinstance(result, UserError):
                row["error"] = str(result)
            else:
                row |= {"prediction": result.answer, "confidence": round(result.confidence, 6)}
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*columns, *ANSWER_COLUMNS])
    writer.writeheader()
    writer.writerows(rows)
    try:
        write_atomically(out, text.getvalue())
    except OSError as error:
        raise UserError(f"{out}: can't be written ({error.strerror}); choose another --out.") from error
    return sum(bool(row["error"]) for row in rows)


def print_answer(answer: Answer) -> None:
    """Prints an answer and, indented, its alternatives."""
    text = "(silent: too unsure)" if answer.silent else answer.answer or "(no answer)"
    print(f"{text}  (confidence {100 * answer.confidence:.0f} %)")
    for other in answer.alternatives:
        print(f"  {other.answer or '(no answer)'}  ({100 * other.confidence:.0f} %)")


def main(argv: Sequence[str]) -> None:
    """The command line; `--help` explains it.

    Raises:
        UserError: what was asked can't be done.
    """
    parser = argparse.ArgumentParser("python -m modeling.predictor", description="Ask a trained model about images.")
    parser.add_argument("model", help="Folder, or Hub id (user/name), of a ViLT, a starter or a BLIP-2.")
    parser.add_argument("--image", help="PNG, JPEG, WebP, TIFF, BMP, GIF or DICOM file to ask about.")
    parser.add_argument("--question", action="append", default=[], help="May be given several times.")
    parser.add_argument("--json", action="store_true", help="Print a JSON list, an object for each question.")
    parser.add_argument("--top_k", type=int, default=5, help="Answers to print for each --question. Default: 5.")
    parser.add_argument(
        "--csv", type=Path, help="Table of many questions, with the columns image (path from the table) and question."
    )
    parser.add_argument("--out", type=Path, help="Where --csv goes with its answers.")
    parser.add_argument("--revision", help="Branch, tag or commit of a Hub id. Default: main.")
    parser.add_argument("--device", help="Such as cpu or cuda:1. Default: the GPU, where there is one.")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="Precision. Default: float16 on a GPU, bfloat16 on a CPU that is fast at it, else float32.",
    )
    args = parser.parse_args(argv)
    about_image, about_table = (args.image, args.question), (args.csv, args.out)
    if not (all(about_image) and not any(about_table)) and not (all(about_table) and not any(about_image)):
        parser.error("give --image and --question, or --csv and --out")
    transformers.utils.logging.disable_progress_bar()
    predictor = Predictor.from_pretrained(args.model, revision=args.revision, device=args.device, dtype=args.dtype)
    if args.csv:
        failed = answer_table(predictor, args.csv, args.out)
        print(f"Answers are in {args.out}" + (f"; {failed} rows have an error there." if failed else "."))
        return
    answers = predictor.answer_batch(args.image, args.question, args.top_k)
    if args.json:
        pairs = zip(args.question, answers, strict=True)
        print(json.dumps([{"question": question, **asdict(answer)} for question, answer in pairs], indent=2))
        return
    for question, answer in zip(args.question, answers, strict=True):
        if len(answers) > 1:
            print(question)
        print_answer(answer)


if __name__ == "__main__":
    run_command(main, logging.WARNING)
