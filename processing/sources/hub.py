"""A data set repo of the Hub: in SLAKE's format, unpacked once as a SLAKE folder, or with tables of any kind."""

import shutil
import stat
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from processing.errors import BROKEN_ZIP, DISK_FULL, UserError, quoted
from processing.sources.data_files import find_tables, read_card
from processing.sources.generic import read_tables
from processing.sources.hub_repo import HubRepo, open_repo
from processing.sources.rows import Repo, Source
from processing.sources.slake import read_slake
from processing.sources.tables import split_files
from processing.storage import cache_dir, whole_folder

ARCHIVE = "imgs.zip"
MAX_UNPACKED_BYTES = 50 * 2**30  # SLAKE takes 0.2 GB; more than this is a decompression bomb


def read_repo(
    repo_id: str, revision: str | None, config: str | None, column_names: Iterable[str], image_folder: str | None
) -> Source:
    """Reads a data set repo; the arguments are those of `processing.sources.read_source`.

    Only the files of the configuration are downloaded, and no script of a repo runs.

    Raises:
        UserError: the repo can't be reached or is refused, or it holds no data set that can be read.
    """
    repo = open_repo(repo_id, revision)
    top = [name for name in repo.files if "/" not in name]
    if ARCHIVE in top and split_files(top, (".json",), repo.label):
        return replace(read_slake(_slake_folder(repo)), repo=Repo(repo_id, repo.commit))
    card = read_card(repo)
    source = read_tables(repo, find_tables(repo, card, config), column_names, image_folder)
    chosen = (config or card.default) if card.configs else None
    return replace(source, repo=Repo(repo_id, repo.commit, chosen, card.license))


def _slake_folder(repo: HubRepo) -> Path:
    """A folder with the repo's JSON files and the `imgs/` of its archive, unpacked once."""
    tables = [name for name in repo.files if name.endswith(".json") and "/" not in name]
    repo.fetch([*tables, ARCHIVE])
    folder = cache_dir() / "datasets" / f"{repo.id}-{repo.commit[:12]}"
    if not folder.is_dir():
        _unpack(repo.root / ARCHIVE, [repo.root / name for name in tables], folder)
    return folder


def _unpack(archive: Path, tables: list[Path], folder: Path) -> None:
    """Unpacks tables and images into a folder, which is there when it is whole."""
    with whole_folder(folder) as temporary:
        for table in tables:
            shutil.copyfile(table, temporary / table.name)
        _unzip(archive, temporary)
        if not (temporary / "imgs").is_dir():
            raise UserError(f"{archive.name}: it has no imgs/ folder; it is not in SLAKE's format.")


def _unzip(archive: Path, target: Path) -> None:
    """Unpacks `imgs/` of an archive; refuses one that is too large or has entries that leave the folder."""
    root = target.resolve()
    try:
        with zipfile.ZipFile(archive) as file:
            entries = file.infolist()
            if sum(entry.file_size for entry in entries) > MAX_UNPACKED_BYTES:
                raise UserError(f"{archive.name}: it unpacks to over {MAX_UNPACKED_BYTES / 2**30:.0f} GiB; refused.")
            for entry in tqdm(entries, "Unpacking images", unit="file"):
                outside = not (root / entry.filename).resolve().is_relative_to(root)
                if outside or stat.S_ISLNK(entry.external_attr >> 16):
                    raise UserError(f"{archive.name}: the entry {quoted(entry.filename)} leaves the folder; refused.")
                if entry.filename.startswith("imgs/"):
                    file.extract(entry, root)
    except BROKEN_ZIP as error:
        raise UserError(f"{archive.name}: a broken zip file ({error}); download it again.") from error
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise UserError(
            f"{archive.name}: an entry can't be unpacked ({error.strerror or error}); pack it again."
        ) from error
