"""A quick run, and its push."""

from pathlib import Path

import train
from modeling.hub.client import Destination
from modeling.publish import preflight, publish
from tests.modeling.hub.samples import MODEL

QUICK = [
    "--model_name_or_path",
    "scratch:tiny",
    "--num_train_epochs",
    "1",
    "--per_device_train_batch_size",
    "64",
    "--disable_tqdm",
    "True",
    "--report_to",
    "none",
]


def run(*flags: object) -> None:
    """A run that takes seconds."""
    train.main([*QUICK, *map(str, flags)])


def push(folder: Path, **options) -> str:
    """Publishes a run's folder as `MODEL`, as the command line does."""
    destination = Destination(MODEL, **options)
    return publish(folder, destination, preflight(destination, None))
