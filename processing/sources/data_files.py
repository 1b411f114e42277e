"""Which files of a folder are the tables of a data set, by split: as `datasets` finds them, running nothing."""

import logging
import posixpath
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns, sanitize_patterns
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData, metadata_load

from processing.errors import UserError, describe_error, quoted, shorten
from processing.sources.folder import DataFolder
from processing.sources.rows import SPLIT_NAMES
from processing.sources.slake import BOXES_NAME
from processing.sources.tables import PARQUET, TABLE_SUFFIXES, split_files

logger = logging.getLogger(__name__)

CARD = "README.md"
# Of several kinds of tables the one of most files is read, as `datasets` does; the first of as many.
PREFERENCE = (PARQUET, ".jsonl", ".ndjson", ".json", ".csv", ".tsv")
EVERYTHING = {"train": ["**"]}  # the pattern of `datasets` where no name tells a split
NAMED_CONFIGS = 20  # in a message


class Table(NamedTuple):
    """A table of a data set.

    Attributes:
        name: relative to its folder.
        split: that of all its rows, where it is known.
    """

    name: str
    split: str | None


class Card(NamedTuple):
    """What a folder's `README.md` says.

    Attributes:
        configs: the parameters of each configuration.
        default: the configuration that is meant where none is named.
        license: of the data set.
    """

    configs: dict[str, dict[str, Any]]
    default: str | None
    license: str | None


def find_tables(folder: DataFolder, card: Card, config: str | None) -> list[Table]:
    """The tables of a configuration, or of a folder that has none.

    A configuration of the card names its files by patterns. Without any, files that are named after a split are that
    split's; else the patterns of `datasets` find them, in any folder and any number of shards.

    Args:
        config: its name, where one was asked for.

    Raises:
        UserError: there is no table, no such configuration, or it is not certain which is meant.
    """
    if card.configs:
        patterns, base = _patterns_of(folder, card, config)
    else:
        if config is not None:
            raise UserError(f"{folder.label}: --dataset_config {config}: it has no configurations; leave it out.")
        top = [name for name in folder.files if "/" not in name]
        if named := split_files(top, TABLE_SUFFIXES, folder.label):
            others = [name for name in top if name.lower().endswith(TABLE_SUFFIXES) and name not in named.values()]
            if others:
                logger.info("%s: read are %s, and not %s.", folder.label, _list(named.values()), _list(others))
            return [Table(name, split) for split, name in named.items()]
        patterns, base = None, ""
    return _resolve(folder, patterns, base)


def read_card(folder: DataFolder) -> Card:
    """What a folder's `README.md` says; nothing where there is none, or its YAML can't be read."""
    if CARD not in folder.files:
        return Card({}, None, None)
    folder.fetch([CARD])
    try:
        data = DatasetCardData(**(metadata_load(folder.root / CARD) or {}))
        configs = MetadataConfigs.from_dataset_card_data(data)
        license_ = data.get("license")
        return Card(dict(configs), configs.get_default_config_name(), license_ if isinstance(license_, str) else None)
    except Exception as error:  # whatever YAML of others makes the libraries raise
        logger.warning("%s: what %s says in YAML can't be read (%s).", folder.label, CARD, describe_error(error))
        return Card({}, None, None)


def _patterns_of(folder: DataFolder, card: Card, config: str | None) -> tuple[dict[str, list[str]] | None, str]:
    """The patterns of a configuration's files and the folder that they are relative to."""
    name = config if config is not None else card.default
    names = _list(list(card.configs)[:NAMED_CONFIGS]) + (", ..." if len(card.configs) > NAMED_CONFIGS else "")
    if name is None:
        raise UserError(f"{folder.label}: it has several configurations; choose one by --dataset_config: {names}.")
    if name not in card.configs:
        raise UserError(f"{folder.label}: it has no configuration {shorten(name)}; choose one of {names}.")
    base = card.configs[name].get("data_dir") or ""
    given = card.configs[name].get("data_files")
    patterns = None if given is None else sanitize_patterns(given)
    for pattern in (str(base), *(pattern for group in (patterns or {}).values() for pattern in group)):
        if "://" in pattern or "::" in pattern or pattern.startswith("/") or ".." in pattern.split("/"):
            raise UserError(
                f"{folder.label}: its configuration {shorten(name)} names {quoted(pattern)}, which lies "
                "outside of the data set; refused."
            )
    return ({str(split): group for split, group in patterns.items()} if patterns else None), str(base)


def _resolve(folder: DataFolder, patterns: dict[str, list[str]] | None, base: str) -> list[Table]:
    """The tables that patterns find, of the kind that most of them are."""
    names = [
        name
        for name in folder.files
        if name.lower().endswith(TABLE_SUFFIXES) and posixpath.basename(name) != BOXES_NAME  # those of an image
    ]
    with tempfile.TemporaryDirectory() as place:
        # `datasets` looks for files in a folder. What is on the Hub is not fetched before it is chosen, so it gets
        # empty files of the same names.
        root = Path(place).resolve()
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        start = (root / base).as_posix()
        try:
            patterns = patterns or get_data_patterns(start)
            found = DataFilesDict.from_patterns(patterns, base_path=start, allowed_extensions=list(TABLE_SUFFIXES))
        except (EmptyDatasetError, FileNotFoundError, ValueError) as error:
            raise _no_table(folder) from error
        files = {
            str(split): [Path(file).relative_to(root).as_posix() for file in group] for split, group in found.items()
        }
    kinds = Counter(posixpath.splitext(name)[1].lower() for group in files.values() for name in group)
    kind = max((kind for kind in PREFERENCE if kinds[kind]), key=lambda kind: kinds[kind], default=None)
    files = {
        split: kept
        for split, group in files.items()
        if (kept := [name for name in dict.fromkeys(group) if name.lower().endswith(str(kind))])
    }
    if not files:
        raise _no_table(folder)
    if patterns == EVERYTHING:
        texts = [name for name in files["train"] if not name.lower().endswith(PARQUET)]
        if len({posixpath.basename(name).lower() for name in texts}) > 1:
            raise UserError(
                f"{folder.label}: none of its tables is named train, validation or test (found: {_list(texts)}); name "
                "the one file to read."
            )
        return [Table(name, None) for name in files["train"]]
    return [Table(name, split) for known, split in _split_names(folder, files).items() for name in files[known]]


def _split_names(folder: DataFolder, found: Iterable[str]) -> dict[str, str | None]:
    """Our name of each split. One that stands alone is split by image, unless it is there to evaluate on."""
    known = {name: SPLIT_NAMES.get(name.strip().lower()) for name in found}
    if len(known) == 1:
        return {name: None if split == "train" else split for name, split in known.items()}
    unknown = [name for name, split in known.items() if split is None]
    if len(unknown) == len(known):
        raise UserError(
            f"{folder.label}: its splits are {_list(known)}, of which none is train, validation or test; name "
            "them so, or write the rows into one table with a column split."
        )
    if unknown:
        logger.warning("%s: the splits %s are left out.", folder.label, _list(unknown))
    return {name: split for name, split in known.items() if split is not None}


def _no_table(folder: DataFolder) -> UserError:
    return UserError(
        f"{folder.label}: it holds no table that can be read (found: {folder.describe()}); give a SLAKE or VQA-RAD "
        "folder, or write the rows as Parquet, CSV, JSON or JSON Lines with the columns image, question and answer."
    )


def _list(names: Iterable[str]) -> str:
    return ", ".join(shorten(str(name)) for name in names)
