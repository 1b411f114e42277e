"""Does the cost of a row grow with the number of rows? The same steps over few generated images and over many.

python -m benchmarks.data_scale --images 20000
python -m benchmarks.data_scale --rows 10000000

The second asks the questions of few images many times, in Parquet files.

Each step runs in a process of its own, so that its peak memory is its own. What the process needs before it reads a
row is subtracted. Memory is RssAnon of Linux: it leaves out kept features that are mapped from the disk, because the
system drops such pages where others need the room. The large set takes minutes to draw. `--folder` keeps both sets.
"""

import argparse
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.options import at_least
from processing.errors import run_command
from processing.phantom.files import write_phantoms

FEW_ROWS = 100_000
ROWS_OF_FILE = 500_000
FEW_IMAGES = 170  # with 2,000 rows
TRAINING_ROWS, EVALUATION_ROWS = 1_400, 280
POLL_SECONDS = 0.02  # between two readings of the memory


class Measured(NamedTuple):
    """What a step took."""

    seconds: float
    memory: int  # bytes above the process before its first row
    count: int  # rows or images


class PeakMemory:
    """The peak of the memory of this process, in bytes above what it had at the start."""

    def __init__(self) -> None:
        self._start = self._peak = self._now()
        threading.Thread(target=self._watch, daemon=True).start()

    def bytes(self) -> int:
        """The peak so far."""
        return max(self._peak, self._now()) - self._start

    def _watch(self) -> None:
        while True:
            self._peak = max(self._peak, self._now())
            time.sleep(POLL_SECONDS)

    @staticmethod
    def _now() -> int:
        [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
        return int(line.split()[1]) * 1024


def load(folder: str) -> Measured:
    """Reads and checks all rows, and at the first time all images."""
    from processing.data import load_vqa_dataset

    memory, started = PeakMemory(), time.perf_counter()
    dataset = load_vqa_dataset(folder)
    return Measured(time.perf_counter() - started, memory.bytes(), sum(map(len, dataset.values())))


def order_an_epoch(folder: str) -> Measured:
    """Counts the answers of loaded rows and puts their questions into the order of an epoch. Loading is not timed."""
    from modeling.parts.vocabulary import build_vocabulary
    from processing.data import load_vqa_dataset
    from processing.row_values import counts_of, numbers_of
    from processing.sampling import ImageGroupedSampler

    rows = load_vqa_dataset(folder)["train"]
    memory, started = PeakMemory(), time.perf_counter()
    build_vocabulary(counts_of(rows, "answer"))
    count = sum(1 for _ in ImageGroupedSampler(numbers_of(rows, "image"), 8, seed=0))
    return Measured(time.perf_counter() - started, memory.bytes(), count)


def compute_features(folder: str) -> Measured:
    """Computes and keeps the features of all images by the image network of the starter."""
    from modeling.parts.kept_features import KeptFeatures
    from modeling.parts.model_files import ModelFiles
    from modeling.vilt.checkpoints import load_checkpoint
    from modeling.vilt.starter import starter_checkpoint

    labels: dict[str, dict] = {"label2id": {"a": 0}, "id2label": {0: "a"}}
    model, processor = load_checkpoint(ModelFiles("starter", starter_checkpoint()), labels, new=".")
    images = [str(image) for image in sorted(Path(folder).glob("imgs/*/source.jpg"))]
    memory, started = PeakMemory(), time.perf_counter()
    KeptFeatures(model.vision, processor.image_processor, max_gb=1_000).fill(images)
    return Measured(time.perf_counter() - started, memory.bytes(), len(images))


def train_and_evaluate(folder: str) -> Measured:
    """Trains the smallest model for an epoch on some of the rows and evaluates it on others. Loading is not timed."""
    import train

    memory = PeakMemory()
    with tempfile.TemporaryDirectory() as output:
        options = ["--model_name_or_path", "scratch:tiny", "--num_train_epochs", "1", "--eval_strategy", "no"]
        options += ["--max_train_samples", str(TRAINING_ROWS), "--max_eval_samples", str(EVALUATION_ROWS)]
        options += ["--save_strategy", "no", "--per_device_train_batch_size", "32", "--disable_tqdm", "True"]
        train.main([*options, "--dataset", folder, "--output_dir", output])
        results = json.loads((Path(output) / "all_results.json").read_text())
    seconds = results["train_runtime"] + results["eval_runtime"]
    return Measured(seconds, memory.bytes(), results["train_samples"] + int(results["eval_total"]))


STEPS_BY_IMAGE = {  # name: function, what is counted
    "load and check all": (load, "row"),
    "load again": (load, "row"),
    "features": (compute_features, "image"),
    "train and evaluate a subset": (train_and_evaluate, "row"),
}
STEPS_BY_ROW = {"load": (load, "row"), "order an epoch": (order_an_epoch, "row")}


def write_rows(folder: Path, count: int, phantoms: Path) -> str:
    """Writes Parquet files whose rows are those of a phantom set over and over, each with an id of its own."""
    from processing.data import load_vqa_dataset

    rows = [row for part in load_vqa_dataset(str(phantoms)).values() for row in part]
    columns = {name: pa.array([row[name] for row in rows]) for name in ("image", "question", "answer")}
    columns["image"] = pa.array([os.path.relpath(row["image"], phantoms) for row in rows])
    shutil.copytree(phantoms / "imgs", folder / "imgs", dirs_exist_ok=True)
    for start in range(0, count, ROWS_OF_FILE):
        numbers = np.arange(start, min(start + ROWS_OF_FILE, count))
        chosen = {name: column.take(pa.array(numbers % len(rows))) for name, column in columns.items()}
        pq.write_table(pa.table(chosen | {"question_id": numbers}), folder / f"train-{start:09}.parquet")
    return str(folder)


def in_own_process(step: Callable[[str], Measured], folder: str, cache: str) -> Measured:
    """A step on the data set in a folder, with a cache folder."""
    os.environ["MEDICAL_VQA_CACHE"] = cache
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(step, folder).result()


def compare(steps: dict[str, tuple[Callable[[str], Measured], str]], small: str, large: str) -> None:
    """Prints what each step takes over few images or rows and over many."""
    print(f"{'':30}{'count':>20}{'ms each':>20}{'ratio':>8}{'GB above the process':>24}")
    with tempfile.TemporaryDirectory() as caches:
        for name, (step, unit) in steps.items():
            # The speed of a machine changes within minutes, so the small set runs before the large one and after it.
            few = in_own_process(step, small, f"{caches}/1")
            many = in_own_process(step, large, f"{caches}/2")
            again = in_own_process(step, small, f"{caches}/3")
            before, many_each, after = (1000 * one.seconds / one.count for one in (few, many, again))
            few_each = (before + after) / 2
            print(
                f"{name:30}{few.count:>9,} {many.count:>10,}{few_each:>10.3f}{many_each:>10.3f}"
                f"{many_each / few_each:>8.2f}{few.memory / 1e9:>14.2f}{many.memory / 1e9:>10.2f}   a {unit}",
                flush=True,
            )


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.data_scale", description="Few rows against many.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--images", type=at_least(1), default=20_000, help="of the large set; about 12 rows each")
    size.add_argument("--rows", type=at_least(1), help="of the large set, over few images, instead")
    parser.add_argument("--folder", type=Path, help="where the sets are kept; by default they are deleted at the end")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        place = options.folder or Path(temporary)
        few_images = write_phantoms(place / str(FEW_IMAGES), FEW_IMAGES, image_size=96)
        if options.rows is None:
            large = write_phantoms(place / str(options.images), options.images, image_size=96)
            compare(STEPS_BY_IMAGE, str(few_images), str(large))
        else:
            small, many = (write_rows(place / f"rows{n}", n, few_images) for n in (FEW_ROWS, options.rows))
            compare(STEPS_BY_ROW, small, many)


if __name__ == "__main__":
    run_command(main, logging.WARNING)
