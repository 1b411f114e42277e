"""processing.sources.hub: a data set repo of the Hub, fetched by the real client over HTTP and unpacked once."""

import io
import stat
import zipfile
from pathlib import Path

import pytest

from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.storage import cache_dir


def as_zip(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder.parent))
    return buffer.getvalue()


@pytest.fixture
def slake_repo(hub, phantoms):
    files = {f"{split}.json": (phantoms / f"{split}.json").read_bytes() for split in ("train", "validate", "test")}
    files |= {"imgs.zip": as_zip(phantoms / "imgs"), "README.md": b"# not needed"}
    hub.repos["datasets/user/slake"] = files
    return files


def unpacked() -> list[Path]:
    folder = cache_dir() / "datasets"
    return sorted(folder.iterdir()) if folder.is_dir() else []


def test_repo_in_slake_format_gives_the_same_rows_as_the_folder(slake_repo, phantoms):
    remote, local = load_vqa_dataset("user/slake"), load_vqa_dataset(str(phantoms))
    for split in local:
        assert remote[split].remove_columns("image").to_list() == local[split].remove_columns("image").to_list()
    assert Path(remote["train"][0]["image"]).read_bytes() == Path(local["train"][0]["image"]).read_bytes()


def test_second_load_downloads_and_unpacks_nothing(slake_repo, hub):
    load_vqa_dataset("user/slake")
    before, folders = len(hub.requests), unpacked()
    stamps = [folder.stat().st_mtime_ns for folder in folders]
    load_vqa_dataset("user/slake")
    assert not [request for request in hub.requests[before:] if request.startswith("GET") and "/resolve/" in request]
    assert [folder.stat().st_mtime_ns for folder in unpacked()] == stamps


def zip_with(name: str, mode: int = 0o644) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("imgs/xmlab0/source.jpg", b"x")
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        archive.writestr(entry, "/etc/passwd")
    return buffer.getvalue()


BAD_ARCHIVES = {
    "climbs": (zip_with("../../evil.txt"), "leaves the folder"),
    "absolute": (zip_with("/tmp/evil.txt"), "leaves the folder"),
    "link": (zip_with("imgs/link", stat.S_IFLNK | 0o777), "leaves the folder"),
    "no-zip": (b"PK\x03\x04 and no more", "broken zip file"),
    "other": (zip_with("x.txt").replace(b"imgs/", b"imga/"), "no imgs/ folder"),
}


@pytest.mark.parametrize("kind", BAD_ARCHIVES)
def test_bad_archive_is_refused_and_leaves_nothing_behind(slake_repo, tmp_path, kind):
    slake_repo["imgs.zip"], message = BAD_ARCHIVES[kind]
    before = unpacked()
    with pytest.raises(UserError, match=f"imgs.zip: .*{message}"):
        load_vqa_dataset("user/slake")
    assert unpacked() == before
    assert not list(cache_dir().rglob("evil.txt"))


def test_archive_that_unpacks_to_too_much_is_refused(slake_repo, monkeypatch):
    monkeypatch.setattr("processing.sources.hub.MAX_UNPACKED_BYTES", 1000)
    slake_repo["train.json"] += b" "  # another commit, so nothing is unpacked yet
    with pytest.raises(UserError, match="unpacks to over"):
        load_vqa_dataset("user/slake")


def test_repo_that_does_not_exist_says_how_to_fix_it(hub):
    with pytest.raises(UserError, match="--dataset user/nothing: the Hub has no such data set.*hf auth login"):
        load_vqa_dataset("user/nothing")


def test_repo_without_a_table_names_what_it_holds_and_the_next_step(hub):
    hub.repos["datasets/user/plain"] = {"README.md": b"# Rows", "shard-0.tar": b"x", "shard-1.tar": b"x"}
    with pytest.raises(UserError) as error:
        load_vqa_dataset("user/plain")
    assert str(error.value) == (
        "--dataset user/plain: it holds no table that can be read (found: README.md, shard-0.tar, shard-1.tar "
        "(2 .tar, 1 .md)); give a SLAKE or VQA-RAD folder, or write the rows as Parquet, CSV, JSON or JSON Lines with "
        "the columns image, question and answer."
    )


def test_table_of_a_repo_without_a_column_names_those_it_has(hub):
    hub.repos["datasets/user/plain"] = {"train.csv": b"image,text,label\na.png,x,y\n"}
    with pytest.raises(UserError) as error:
        load_vqa_dataset("user/plain")
    assert str(error.value) == (
        "--dataset user/plain: train.csv: no column 'question' (found: 'image', 'label', 'text'); name yours by "
        "--column_names image=... question=..., or write their names into the first line."
    )


def test_unreachable_hub_is_one_sentence(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="the Hub can't be reached"):
        load_vqa_dataset("user/elsewhere")
