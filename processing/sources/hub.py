"""A data set repo of the Hub in SLAKE's format, as a local SLAKE folder."""

import shutil
import stat
import tempfile
import zipfile
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from tqdm import tqdm

from processing.errors import BROKEN_ZIP, DISK_FULL, UserError, quoted
from processing.storage import cache_dir

ARCHIVE = "imgs.zip"
MAX_UNPACKED_BYTES = 50 * 2**30  # SLAKE takes 0.2 GB; more than this is a decompression bomb


def download_slake(repo_id: str) -> Path:
    """Downloads a data set repo such as `BoKelvin/SLAKE` and unpacks its `imgs.zip` once.

    Returns:
        A folder with the repo's JSON files and `imgs/`.

    Raises:
        UserError: the repo can't be reached or is not in SLAKE's format.
    """
    try:
        snapshot = Path(snapshot_download(repo_id, repo_type="dataset", allow_patterns=["*.json", ARCHIVE]))
    except RepositoryNotFoundError as error:
        raise UserError(
            f"--dataset {repo_id}: the Hub has no such data set, or it is private; check the name, or log in with "
            "`hf auth login`."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"--dataset {repo_id}: the Hub can't be reached ({type(error).__name__}); check the connection, or give a "
            "folder."
        ) from error
    archive = snapshot / ARCHIVE
    if not archive.is_file():
        raise UserError(f"--dataset {repo_id}: the repo has no {ARCHIVE}; it is not in SLAKE's format.")
    commit = snapshot.name[:12]
    folder = cache_dir() / "datasets" / f"{repo_id.replace('/', '--')}-{commit}"
    if not folder.is_dir():
        _unpack(archive, [file for file in snapshot.iterdir() if file.suffix == ".json"], folder)
    return folder


def _unpack(archive: Path, tables: list[Path], folder: Path) -> None:
    """Unpacks into a temporary folder that takes its name when it is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for table in tables:
            shutil.copyfile(table, temporary / table.name)
        _unzip(archive, temporary)
        if not (temporary / "imgs").is_dir():
            raise UserError(f"{archive.name}: it has no imgs/ folder; it is not in SLAKE's format.")
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
