"""Does the cost of a row grow with the number of rows? The same steps over few generated images and over many.

python -m benchmarks.data_scale --images 20000

Each step runs in a process of its own, so that its peak memory is its own; what a process needs before it reads a row
is taken off. Memory is the process's own (RssAnon of Linux): pages of kept features that are mapped from the disk go
where others need the room. The large set takes minutes to draw; `--folder` keeps both for the next time.
"""

import argparse
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from processing.errors import run_command
from processing.phantom.files import write_phantoms

SMALL = 170  # images, with 2,000 rows
TRAINED, EVALUATED = 1_400, 280  # rows
LOOK_EVERY = 0.02  # seconds between two looks at the memory


class Measured(NamedTuple):
    """Seconds, bytes above the process before its first row, and how many things were done."""

    seconds: float
    memory: int
    count: int


class Memory:
    """The peak of this process's own memory, in bytes, above what it had at the start."""

    def __init__(self) -> None:
        self.start = self.peak = self._own()
        threading.Thread(target=self._watch, daemon=True).start()

    def above(self) -> int:
        return max(self.peak, self._own()) - self.start

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, self._own())
            time.sleep(LOOK_EVERY)

    @staticmethod
    def _own() -> int:
        [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
        return int(line.split()[1]) * 1024


def load(folder: str) -> Measured:
    """Reads and checks all rows and, where it is the first time, all images."""
    from processing.data import load_vqa_dataset

    memory, started = Memory(), time.perf_counter()
    dataset = load_vqa_dataset(folder)
    return Measured(time.perf_counter() - started, memory.above(), sum(map(len, dataset.values())))


def features(folder: str) -> Measured:
    """Computes and keeps the features of all images, by the starter's image network."""
    from modeling.parts.kept_features import KeptFeatures
    from modeling.vilt.checkpoints import load_checkpoint
    from modeling.vilt.starter import starter_checkpoint

    model, processor = load_checkpoint(str(starter_checkpoint()), {"label2id": {"a": 0}, "id2label": {0: "a"}})
    images = [str(image) for image in sorted(Path(folder).glob("imgs/*/source.jpg"))]
    memory, started = Memory(), time.perf_counter()
    KeptFeatures(model.vision, processor.image_processor, 1_000).fill(images)
    return Measured(time.perf_counter() - started, memory.above(), len(images))


def training(folder: str) -> Measured:
    """An epoch over a subset of the rows and an evaluation of another, by the smallest model, without the loading."""
    import train

    memory = Memory()
    with tempfile.TemporaryDirectory() as output:
        options = ["--model_name_or_path", "scratch:tiny", "--num_train_epochs", "1", "--eval_strategy", "no"]
        options += ["--max_train_samples", str(TRAINED), "--max_eval_samples", str(EVALUATED)]
        options += ["--save_strategy", "no", "--per_device_train_batch_size", "32", "--disable_tqdm", "True"]
        train.main([*options, "--dataset", folder, "--output_dir", output])
        results = json.loads((Path(output) / "all_results.json").read_text())
    seconds = results["train_runtime"] + results["eval_runtime"]
    return Measured(seconds, memory.above(), results["train_samples"] + int(results["eval_total"]))


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.data_scale", description="Few rows against many.")
    parser.add_argument("--images", type=int, default=20_000, help="of the large set; about 12 rows each")
    parser.add_argument("--folder", type=Path, help="where the sets are kept; by default nowhere")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        place = options.folder or Path(temporary)
        small, large = (str(write_phantoms(place / str(n), n, image_size=96)) for n in (SMALL, options.images))

        def apart(step: Callable[[str], Measured], folder: str, cache: str) -> Measured:
            os.environ["MEDICAL_VQA_CACHE"] = f"{temporary}/{cache}"
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
            # a machine's pace changes within minutes, so the few come before the many and after them
            few, many, again = (apart(step, *on) for on in ((small, "1"), (large, "2"), (small, "3")))
            before, each, after = (1000 * one.seconds / one.count for one in (few, many, again))
            small_each = (before + after) / 2
            print(
                f"{name:30}{few.count:>9,} {many.count:>10,}{small_each:>10.3f}{each:>10.3f}{each / small_each:>8.2f}"
                f"{few.memory / 1e9:>14.2f}{many.memory / 1e9:>10.2f}   a {unit}",
                flush=True,
            )


if __name__ == "__main__":
    run_command(main, logging.WARNING)
