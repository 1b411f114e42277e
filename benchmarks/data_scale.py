"""Does the cost of a row grow with the number of rows? The same steps over few generated images and over many.

python -m benchmarks.data_scale --images 20000

Each step runs in a process of its own, so that its peak memory is its own; what a process needs before it reads a row
is taken off. The large set takes minutes to draw; `--folder` keeps both for the next time.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from processing.phantom import write_phantoms

SMALL = 170  # images, with 2,000 rows
SUBSET = 2_000  # rows that are trained on, and evaluated


class Measured(NamedTuple):
    """Seconds, bytes above the process before its first row, and how many things were done."""

    seconds: float
    memory: int
    count: int


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def load(folder: str) -> Measured:
    """Reads and checks all rows and, where it is the first time, all images."""
    from processing.data import load_vqa_dataset

    before, started = peak(), time.perf_counter()
    dataset = load_vqa_dataset(folder)
    return Measured(time.perf_counter() - started, peak() - before, sum(map(len, dataset.values())))


def features(folder: str) -> Measured:
    """Computes and keeps the features of all images, by the starter's image network."""
    from modeling.frozen_vision import KeptFeatures
    from modeling.starter import starter_checkpoint
    from modeling.vilt import load_checkpoint

    model, processor = load_checkpoint(str(starter_checkpoint()), {"label2id": {"a": 0}, "id2label": {0: "a"}})
    images = [str(image) for image in sorted(Path(folder).glob("imgs/*/source.jpg"))]
    before, started = peak(), time.perf_counter()
    KeptFeatures(model.vision, processor.image_processor, 1_000).fill(images)
    return Measured(time.perf_counter() - started, peak() - before, len(images))


def training(folder: str) -> Measured:
    """An epoch over a subset of the rows and an evaluation of another, by the smallest model."""
    import train

    before, started = peak(), time.perf_counter()
    with tempfile.TemporaryDirectory() as output:
        options = ["--model_name_or_path", "scratch:tiny", "--num_train_epochs", "1", "--eval_strategy", "no"]
        options += ["--max_train_samples", str(SUBSET), "--max_eval_samples", str(SUBSET), "--save_strategy", "no"]
        options += ["--per_device_train_batch_size", "32", "--disable_tqdm", "True"]
        train.main([*options, "--dataset", folder, "--output_dir", output])
    return Measured(time.perf_counter() - started, peak() - before, 2 * SUBSET)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.data_scale", description="Few rows against many.")
    parser.add_argument("--images", type=int, default=20_000, help="of the large set; about 12 rows each")
    parser.add_argument("--folder", type=Path, help="where the sets are kept; by default nowhere")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = options.folder or Path(temporary)
        os.environ["MEDICAL_VQA_CACHE"] = f"{temporary}/cache"
        sets = [str(write_phantoms(place / str(n), n, image_size=96)) for n in (SMALL, options.images)]

        def apart(step: Callable[[str], Measured], folder: str) -> Measured:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                return pool.submit(step, folder).result()

        steps = {
            "load and check all": (load, "row"),
            "load again": (load, "row"),
            "features": (features, "image"),
            "train and evaluate a subset": (training, "row"),
        }
        print(f"{'':30}{'count':>20}{'ms each':>20}{'ratio':>8}{'GB above the process':>24}")
        for name, (step, unit) in steps.items():
            few, many = (apart(step, folder) for folder in sets)
            each = [1000 * one.seconds / one.count for one in (few, many)]
            print(
                f"{name:30}{few.count:>9,} {many.count:>10,}{each[0]:>10.3f}{each[1]:>10.3f}{each[1] / each[0]:>8.2f}"
                f"{few.memory / 1e9:>14.2f}{many.memory / 1e9:>10.2f}   a {unit}",
                flush=True,
            )


if __name__ == "__main__":
    main()
