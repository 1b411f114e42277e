"""Does a model look at the image? Its answers to the same questions about changed images.

    python -m modeling.probe MODEL --dataset path/to/SLAKE [--split validation] [--output probe]

What takes the image away (that of another row, a blank one, a blur) should take the right answers away: what stays
right comes from the question alone. What a reader would not notice (a small turn, contrast, noise, JPEG, a crop)
should change nothing.
"""

import argparse
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter
from tqdm import tqdm

from metrics.intervals import bootstrap_interval
from metrics.vqa import all_scores
from modeling.predictor import Answer, Predictor
from processing.data import load_vqa_dataset
from processing.errors import UserError, run_command
from processing.images import open_image
from processing.utils import write_atomically

Change = Callable[[Image.Image], Image.Image]
STEP = 256  # questions between two looks at the progress bar
BLUR = 1 / 16  # standard deviation in shares of the image's longer side
ROTATION = 5  # degrees
CONTRAST = 1.3
NOISE = 8  # standard deviation in grey values of 0 to 255
JPEG_QUALITY = 30
CROP = 0.04  # of each side


def _noisy(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32)
    noise = np.random.default_rng(0).normal(0, NOISE, (*pixels.shape[:2], 1))
    return Image.fromarray((pixels + noise).clip(0, 255).round().astype(np.uint8))


def _jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
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
    """Another image for each distinct one; all questions of an image go to the same one.

    Raises:
        UserError: there is one image only.
    """
    distinct = sorted(set(images))
    if len(distinct) < 2:
        raise UserError("One image alone can't be exchanged for another; give two or more.")
    order = np.random.default_rng(seed).permutation(len(distinct))
    return {distinct[one]: distinct[other] for one, other in zip(order, np.roll(order, 1), strict=True)}


def probe(predictor: Predictor, rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Figures of answers to the same questions about images as they are and changed.

    Args:
        rows: with `image`, `image_id`, `question`, `answer`, `language` and `content_type`.

    Returns:
        By change: `exact_match`, `drop` (how far it is below that of the images as they are) with its 95 % interval
        over images, `unchanged` (share of answers that stay the same), all in percent, and `drop_by_content_type`.
    """
    other = shuffled([row["image"] for row in rows])
    changes: dict[str, Callable[[str], Image.Image]] = {"as it is": open_image}
    changes[SHUFFLED] = lambda path: open_image(other[path])
    changes |= {name: _changed(change) for name, change in (BLIND | HARMLESS).items()}
    by_image = sorted(range(len(rows)), key=lambda i: rows[i]["image"])
    images = [row["image_id"] for row in rows]
    kinds = sorted({row["content_type"] for row in rows if row["content_type"]})
    figures: dict[str, dict[str, Any]] = {}
    with tqdm(total=len(changes) * len(rows), desc="Probing", unit="question") as bar:
        for name, change in changes.items():
            answers = _answers(predictor, rows, by_image, change, bar)
            right = 100 * all_scores(rows, answers)[:, 0]
            if not figures:
                plain, first = right, answers
            drop = plain - right
            same = [one == another for one, another in zip(first, answers, strict=True)]
            figures[name] = {
                "exact_match": round(float(right.mean()), 2),
                "drop": [round(value, 2) for value in (float(drop.mean()), *bootstrap_interval(drop, images))],
                "unchanged": round(100 * float(np.mean(same)), 2),
                "drop_by_content_type": {
                    kind: round(float(drop[[row["content_type"] == kind for row in rows]].mean()), 2) for kind in kinds
                },
            }
    return figures


def _changed(change: Change) -> Callable[[str], Image.Image]:
    return lambda path: change(open_image(path))


def _answers(
    predictor: Predictor, rows: Sequence[dict[str, Any]], order: Sequence[int], change: Callable, bar: tqdm
) -> list[str]:
    answers: dict[int, str] = {}
    for start in range(0, len(order), STEP):
        part = order[start : start + STEP]
        opened = {path: change(path) for path in {rows[i]["image"] for i in part}}
        images = [opened[rows[i]["image"]] for i in part]
        found = predictor.try_batch(images, [rows[i]["question"] for i in part], 1)
        answers |= {i: one.answer if isinstance(one, Answer) else "" for i, one in zip(part, found, strict=True)}
        bar.update(len(part))
    return [answers[i] for i in range(len(rows))]


def as_table(figures: dict[str, dict[str, Any]]) -> str:
    """The figures of `probe` in Markdown, the drop of each content type in its own column."""
    kinds = list(figures["as it is"]["drop_by_content_type"])
    table = [["image", "EM", "drop", "answers unchanged", *kinds], ["---"] * (4 + len(kinds))]
    for name, entry in figures.items():
        drop, low, high = entry["drop"]
        cells = [name, f"{entry['exact_match']:.2f}", f"{drop:.2f} ({low:.2f} to {high:.2f})"]
        cells += [f"{entry['unchanged']:.1f}", *(f"{value:.1f}" for value in entry["drop_by_content_type"].values())]
        table.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def main(argv: list[str]) -> None:
    """The command line.

    Raises:
        UserError: the model or the data can't be loaded, or the split has no rows.
    """
    parser = argparse.ArgumentParser("python -m modeling.probe", description="Does a model look at the image?")
    parser.add_argument("model", help="folder or Hub id")
    parser.add_argument("--dataset", required=True, help="as for train.py")
    parser.add_argument("--split", default="validation", help="validation or test")
    parser.add_argument("--output", type=Path, default=Path("probe"), help="folder for probe.md and probe.json")
    options = parser.parse_args(argv)
    dataset = load_vqa_dataset(options.dataset)
    if options.split not in dataset:
        raise UserError(f"--dataset {options.dataset}: it has no {options.split} split; choose {', '.join(dataset)}.")
    figures = probe(Predictor.from_pretrained(options.model), list(dataset[options.split]))
    table = as_table(figures)
    write_atomically(options.output / "probe.json", json.dumps(figures, indent=1) + "\n")
    write_atomically(options.output / "probe.md", f"# {options.model} on {options.split} images, changed\n\n{table}\n")
    print(table)


if __name__ == "__main__":
    run_command(main)
