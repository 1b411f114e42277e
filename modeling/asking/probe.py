"""Does a model look at the image, and does it agree with itself?

The model answers again where image or question is changed. What takes the image away (another row's, a blank one, a
blur) should take the right answers away: what stays right comes from the question alone. What a reader would not
notice (a small turn, contrast, noise, JPEG, a crop) should change nothing, and neither should other words for the same
question (`modeling.asking.consistency`).
"""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter
from tqdm import tqdm

from metrics.intervals import mean_with_interval
from metrics.vqa import all_scores
from modeling.asking.predictor import Answer, Predictor
from processing.errors import UserError
from processing.images import open_image

Change = Callable[[Image.Image], Image.Image]
BATCH_SIZE = 256  # questions that the predictor gets at once
BLUR = 1 / 16  # standard deviation in shares of the image's longer side
ROTATION = 5  # degrees
CONTRAST = 1.3
NOISE = 8  # standard deviation in grey values of 0 to 255
JPEG_QUALITY = 30
MAX_JPEG_SIDE = 65_500  # pixels that libjpeg writes
CROP = 0.04  # of each side


def _noisy(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32)
    noise = np.random.default_rng(0).normal(0, NOISE, (*pixels.shape[:2], 1))
    return Image.fromarray((pixels + noise).clip(0, 255).round().astype(np.uint8))


def _jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image = image.copy()
    image.thumbnail((MAX_JPEG_SIDE, MAX_JPEG_SIDE))
    image.save(file, "JPEG", quality=JPEG_QUALITY)
    return open_image(file.getvalue())


def _cropped(image: Image.Image) -> Image.Image:
    across, down = (round(side * CROP) for side in image.size)
    return image.crop((across, down, image.width - across, image.height - down))


BLIND: dict[str, Change] = {  # beside "image of another row"
    "blank": lambda image: Image.new("RGB", image.size, (127, 127, 127)),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(max(image.size) * BLUR)),
}
HARMLESS: dict[str, Change] = {
    "turned": lambda image: image.rotate(ROTATION, Image.Resampling.BICUBIC),
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(CONTRAST),
    "noise": _noisy,
    "JPEG": _jpeg,
    "cropped": _cropped,
}
SHUFFLED = "image of another row"


def shuffled(images: Sequence[str], seed: int = 0) -> dict[str, str]:
    """Another image for each distinct one. All questions of an image go to the same one.

    Raises:
        UserError: there is one image only.
    """
    distinct = sorted(set(images))
    if len(distinct) < 2:
        raise UserError("The split has one image alone, so there is no other to show; give two or more.")
    order = np.random.default_rng(seed).permutation(len(distinct))
    return {distinct[one]: distinct[other] for one, other in zip(order, np.roll(order, 1), strict=True)}


def probe(
    predictor: Predictor, rows: Sequence[dict[str, Any]], answers: Sequence[str]
) -> tuple[dict[str, dict], list[dict[str, Any]]]:
    """Figures of answers to the same questions about images as they are and changed.

    Args:
        predictor: the model.
        rows: with `image`, `image_id`, `question`, `question_id`, `answer`, `language` and `content_type`;
            some with `choices`.
        answers: to the rows as they are.

    Returns:
        Two things. First, figures by change, in percent: `exact_match`; `drop`, how far that is below the figure of
        images as they are, as `[mean, low, high]` of `metrics.intervals.mean_with_interval`; `unchanged`, the share of
        answers that stay the same; and `drop_by_content_type`. Second, the rows whose answer stays the same with
        another image: `id`, `image_id`, `question`, `answer` (gold), `prediction` and `unchanged`, the names of all
        blinding changes that leave it.
    """
    other = shuffled([row["image"] for row in rows])
    changes: dict[str, Callable[[str], Image.Image]] = {SHUFFLED: lambda path: open_image(other[path])}
    changes |= {name: _changed(change) for name, change in (BLIND | HARMLESS).items()}
    images = [row["image_id"] for row in rows]
    kinds = sorted({row["content_type"] for row in rows if row["content_type"]})
    paths, questions = [row["image"] for row in rows], [row["question"] for row in rows]
    choices = [row.get("choices") for row in rows]
    found = {"as it is": answers}
    for name, change in changes.items():
        found[name] = ask(predictor, paths, questions, name, change, choices)
    right = {name: 100 * all_scores(rows, texts)[:, 0] for name, texts in found.items()}
    figures: dict[str, dict[str, Any]] = {}
    same: dict[str, np.ndarray] = {}
    for name, texts in found.items():
        drop = right["as it is"] - right[name]
        same[name] = np.array([one == another for one, another in zip(answers, texts, strict=True)])
        figures[name] = {
            "exact_match": round(float(right[name].mean()), 2),
            "drop": mean_with_interval(drop, images, (-100, 100)) if name in changes else [0.0, None, None],
            "unchanged": round(100 * float(np.mean(same[name])), 2),
            "drop_by_content_type": {
                kind: round(float(drop[[row["content_type"] == kind for row in rows]].mean()), 2) for kind in kinds
            },
        }
    unmoved = [
        {
            "id": row["question_id"],
            "image_id": row["image_id"],
            "question": row["question"],
            "answer": row["answer"],
            "prediction": answers[i],
            "unchanged": [name for name in (SHUFFLED, *BLIND) if same[name][i]],
        }
        for i, row in enumerate(rows)
        if same[SHUFFLED][i]
    ]
    return figures, unmoved


def _changed(change: Change) -> Callable[[str], Image.Image]:
    return lambda path: change(open_image(path))


def ask(
    predictor: Predictor,
    images: Sequence[str],
    questions: Sequence[str],
    title: str,
    change: Callable[[str], Image.Image] = open_image,
    choices: Sequence[Sequence[str] | None] | None = None,
) -> list[str]:
    """Answers to questions about images; "" where there is none.

    Args:
        predictor: the model.
        images: the path of each question's image.
        questions: one an image.
        title: of the progress bar.
        change: from a path to the image that is shown.
        choices: the options of each question, None where it has none.
    """
    choices = [None] * len(images) if choices is None else choices
    order = sorted(range(len(images)), key=lambda i: images[i])
    answers: dict[int, str] = {}
    with tqdm(total=len(images), desc=f"Probing: {title}", unit="question") as bar:
        for start in range(0, len(order), BATCH_SIZE):
            part = order[start : start + BATCH_SIZE]
            opened = {path: change(path) for path in {images[i] for i in part}}
            shown = [opened[images[i]] for i in part]
            found = predictor.try_batch(shown, [questions[i] for i in part], 1, [choices[i] for i in part])
            answers |= {i: one.answer if isinstance(one, Answer) else "" for i, one in zip(part, found, strict=True)}
            bar.update(len(part))
    return [answers[i] for i in range(len(images))]
