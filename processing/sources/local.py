"""A data set in a folder or a file of this machine."""

from collections.abc import Iterable
from pathlib import Path

from processing.errors import UserError
from processing.sources.data_files import Table, find_tables, read_card
from processing.sources.folder import local_folder
from processing.sources.generic import read_tables
from processing.sources.rows import Source
from processing.sources.slake import read_slake
from processing.sources.tables import TABLE_SUFFIXES, split_files
from processing.sources.vqa_rad import PUBLIC_FILE, has_vqa_rad_splits, read_vqa_rad_splits


def read_path(path: Path, config: str | None, column_names: Iterable[str], image_folder: str | None) -> Source:
    """Reads a SLAKE or VQA-RAD folder, a folder of tables, or one table.

    The other arguments are those of `processing.sources.read_source`.

    Raises:
        UserError: it can't be read, or it holds no data set.
    """
    label = f"--dataset {path}"
    if not path.is_dir():
        if config is not None:
            raise UserError(f"--dataset_config: {path} is one file, which has none; leave it out.")
        beside = local_folder(label, path.parent, deep=False)
        return read_tables(beside, [Table(path.name, None)], column_names, image_folder)
    top = local_folder(label, path, deep=False)
    if PUBLIC_FILE in top.files:
        return read_tables(top, [Table(PUBLIC_FILE, None)], column_names, image_folder)
    if has_vqa_rad_splits(path):
        return read_vqa_rad_splits(path)
    if (path / "imgs").is_dir() and split_files(top.files, (".json",), label):
        return read_slake(path)
    card = read_card(top)
    if card.configs or not split_files(top.files, TABLE_SUFFIXES, label):
        top = local_folder(label, path)
    return read_tables(top, find_tables(top, card, config), column_names, image_folder)
