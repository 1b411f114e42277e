"""processing.sources.archives: images in zip files beside a table, and what hostile archives try."""

import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.images import MAX_IMAGE_BYTES
from processing.storage import cache_dir
from tests.processing.conftest import rows_of
from tests.support.hub_data_sets import as_csv, as_zip, picture

COUNT = 12


@pytest.fixture
def table(tmp_path):
    """Writes a CSV file of questions about images of these names."""

    def write(names):
        rows = [{"Figure_path": name, "Question": f"What, {i}?", "Answer": "lung"} for i, name in enumerate(names)]
        (tmp_path / "rows.csv").write_bytes(as_csv(rows))
        return str(tmp_path / "rows.csv")

    return write


def names(pattern="{}.jpg"):
    return [pattern.format(i) for i in range(COUNT)]


def archive(pattern="{}.jpg", start=0, stop=COUNT, more=None):
    files = {pattern.format(i): picture(i) for i in range(start, stop)}
    return as_zip(files | (more or {}))


def pictures_of(dataset) -> dict[int, bytes]:
    return {int(row["question"][6:-1]): Path(row["image"]).read_bytes() for row in rows_of(dataset)}


EVERY = {i: picture(i) for i in range(COUNT)}
LAYOUTS = {
    "as named": ("{}.jpg", "{}.jpg"),
    "a top folder in the archive": ("{}.jpg", "images/{}.jpg"),
    "two of them": ("{}.jpg", "out/images/{}.jpg"),
    "a folder in the table": ("images/{}.jpg", "{}.jpg"),
    "both": ("train/{}.jpg", "images/train/{}.jpg"),
    "backslashes in the table": ("images\\{}.jpg", "images/{}.jpg"),
    "a dot": ("./{}.jpg", "images/{}.jpg"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_are_found_by_what_table_and_archive_share(table, tmp_path, layout):
    named, packed = LAYOUTS[layout]
    file = table(names(named))
    (tmp_path / "images.zip").write_bytes(archive(packed))
    for _ in range(2):
        dataset = load_vqa_dataset(file)
        assert pictures_of(dataset) == EVERY
    assert {row["image_id"] for row in rows_of(dataset)} == {name.removeprefix("./") for name in names(named)}


def test_several_archives_and_loose_files_go_together(table, tmp_path):
    file = table(names())
    (tmp_path / "a.zip").write_bytes(archive("a/{}.jpg", 0, 5))
    (tmp_path / "b.ZIP").write_bytes(archive("{}.jpg", 5, 10))
    for i in (10, 11):
        (tmp_path / f"{i}.jpg").write_bytes(picture(i))
    assert pictures_of(load_vqa_dataset(file)) == EVERY


def test_only_what_rows_name_is_unpacked(table, tmp_path):
    file = table(names())
    extra = picture(240)
    (tmp_path / "images.zip").write_bytes(archive(more={"other.jpg": extra}))
    load_vqa_dataset(file)
    stored = {path.read_bytes() for path in (cache_dir() / "images").rglob("*.jpg")}
    assert set(EVERY.values()) <= stored
    assert extra not in stored


def test_archives_are_not_opened_where_all_images_are_files(table, tmp_path):
    file = table(names())
    for i in range(COUNT):
        (tmp_path / f"{i}.jpg").write_bytes(picture(i))
    (tmp_path / "unrelated.zip").write_bytes(b"no zip file")
    dataset = load_vqa_dataset(file)
    assert {Path(row["image"]).parent for row in rows_of(dataset)} == {tmp_path}


def test_same_name_in_two_folders_is_not_guessed(table, tmp_path, caplog):
    file = table(names())
    files = {f"a/{i}.jpg": picture(i) for i in range(COUNT)} | {"b/3.jpg": picture(100)}
    (tmp_path / "images.zip").write_bytes(as_zip(files))
    found = pictures_of(load_vqa_dataset(file))
    assert found == {i: data for i, data in EVERY.items() if i != 3}
    assert "several images of this name in a zip file; write their folder in front: rows.csv row 4" in caplog.text


def entry(name, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def lies_about_its_size(data: bytes, name: bytes, size: int) -> bytes:
    """The archive, whose central directory gives another unpacked size for an entry."""
    start = data.rindex(b"PK\x01\x02", 0, data.rindex(name))
    return data[: start + 24] + struct.pack("<I", size) + data[start + 28 :]


def hostile() -> dict[str, tuple[bytes, str, str]]:
    """Archives, the name that the fifth row has for an image, and what is said of it."""
    link = io.BytesIO()
    with zipfile.ZipFile(link, "w") as file:
        for i in range(COUNT):
            content = "/etc/passwd" if i == 4 else picture(i)
            file.writestr(entry(f"{i}.jpg", (stat.S_IFLNK if i == 4 else stat.S_IFREG) | 0o644), content)
    bomb = as_zip(
        {f"{i}.jpg": picture(i) if i != 4 else bytes(MAX_IMAGE_BYTES + 10) for i in range(COUNT)},
        zipfile.ZIP_DEFLATED,
    )
    good = archive()
    broken = good.replace(picture(4)[-40:], bytes(40), 1)
    encrypted = bytearray(good)
    position = good.rindex(b"PK\x01\x02", 0, good.rindex(b"4.jpg"))
    encrypted[position + 8] |= 1
    return {
        "climbs in the table": (archive("../{}.jpg"), "../4.jpg", "missing image|leaves the data folder"),
        "whole path in the table": (archive("/etc/{}.jpg"), "/etc/4.jpg", "missing image|leaves the data folder"),
        "climbs in the archive": (as_zip({"../../../tmp/4.jpg": picture(4)}), "4.jpg", "missing image"),
        "link": (link.getvalue(), "4.jpg", "missing image"),
        "bomb": (bomb, "4.jpg", "image above the limit"),
        "bomb that lies": (lies_about_its_size(bomb, b"4.jpg", 1000), "4.jpg", "can't be unpacked|above the limit"),
        "broken entry": (broken, "4.jpg", "an image that can't be unpacked"),
        "encrypted entry": (bytes(encrypted), "4.jpg", "an image that can't be unpacked"),
        "empty entry": (as_zip({"4.jpg": b""}), "4.jpg", "an image that can't be unpacked"),
    }


@pytest.mark.parametrize("kind", hostile())
def test_hostile_entry_costs_its_row_and_writes_nothing_outside(table, tmp_path, caplog, kind):
    content, name, message = hostile()[kind]
    data = tmp_path / "data"
    data.mkdir()
    rows = names()
    rows[4] = name
    for i in range(COUNT):
        if i != 4:
            (tmp_path / f"{i}.jpg").write_bytes(picture(i))
    file = table(rows)
    (tmp_path / "images.zip").write_bytes(content)
    outside = set(Path("/tmp").glob("*.jpg")) | set(tmp_path.rglob("*"))
    dataset = load_vqa_dataset(file)
    assert sorted(pictures_of(dataset)) == [i for i in range(COUNT) if i != 4]
    assert any(part in caplog.text for part in message.split("|"))
    assert set(Path("/tmp").glob("*.jpg")) | set(tmp_path.rglob("*")) == outside
    for path in (cache_dir() / "images").rglob("*.*"):
        assert path.stat().st_size <= MAX_IMAGE_BYTES


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", archive()[:-30]], ids=["empty", "noise", "cut"])
def test_broken_archive_is_named_and_its_images_are_missing(table, tmp_path, caplog, content):
    file = table(names())
    (tmp_path / "images.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"no rows left(.|\n)*12 x missing image"):
        load_vqa_dataset(file)
    assert "images.zip: a broken zip file" in caplog.text


def test_images_of_more_than_the_limit_in_all_are_refused(table, tmp_path, monkeypatch):
    monkeypatch.setattr("processing.sources.archives.MAX_UNPACKED_BYTES", 3 * len(picture(0)))
    file = table(names())
    (tmp_path / "images.zip").write_bytes(archive())
    with pytest.raises(UserError, match="images.zip: it unpacks to over"):
        load_vqa_dataset(file)


def test_image_that_was_removed_from_the_cache_is_unpacked_again(table, tmp_path):
    file = table(names())
    (tmp_path / "images.zip").write_bytes(archive())
    row = rows_of(load_vqa_dataset(file))[0]
    Path(row["image"]).unlink()
    assert pictures_of(load_vqa_dataset(file)) == EVERY


def test_archive_that_changes_is_read_again(table, tmp_path):
    file = table(names())
    (tmp_path / "images.zip").write_bytes(archive())
    load_vqa_dataset(file)
    changed = {f"{i}.jpg": picture(i + 50) for i in range(COUNT)}
    (tmp_path / "images.zip").write_bytes(as_zip(changed))
    assert pictures_of(load_vqa_dataset(file)) == {i: picture(i + 50) for i in range(COUNT)}
