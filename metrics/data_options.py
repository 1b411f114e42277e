"""The flags by which a command line names a data set, as train.py does."""

import argparse
from typing import Any

NAMES = ("language", "column_names", "image_folder", "dataset_config", "dataset_revision")


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `NAMES`."""
    parser.add_argument("--language", default="en", choices=("en", "zh", "all"), help="language of the rows to use")
    parser.add_argument("--dataset_config", metavar="NAME", help="configuration of a Hub data set")
    parser.add_argument("--dataset_revision", metavar="NAME", help="branch, tag or commit of a Hub data set")
    parser.add_argument(
        "--column_names", nargs="+", default=[], metavar="FIELD=COLUMN", help="names of a table's columns"
    )
    parser.add_argument("--image_folder", metavar="FOLDER", help="folder with a table's images")


def data_options(options: argparse.Namespace) -> dict[str, Any]:
    """Their values, as `processing.data` takes them."""
    return {name: getattr(options, name) for name in NAMES}
