"""processing.row_files, spool and row_values: rows that stay on the disk."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from processing.data import load_vqa_dataset
from processing.image_store import StoredImage
from processing.problems import Problem
from processing.row_values import counts_of, numbers_of
from processing.spool import BATCH, IN_MEMORY, Spool
from tests.processing.conftest import rows_of


def kept(cache: Path) -> list[Path]:
    return sorted(path for path in (cache / "rows").iterdir())


def test_rows_are_mapped_from_files_that_equal_data_share(table, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDICAL_VQA_CACHE", str(tmp_path / "cache"))
    file = table(count=20)
    first, again = (load_vqa_dataset(str(file)) for _ in range(2))
    files = [
        {Path(entry["filename"]) for part in loaded.values() for entry in part.cache_files}
        for loaded in (first, again)
    ]
    assert files[0] == files[1] == set(kept(tmp_path / "cache"))  # nothing else is left there
    assert len(files[0]) == 3
    load_vqa_dataset(str(file), split_seed=1)
    assert len(kept(tmp_path / "cache")) == 6
    assert rows_of(first) == rows_of(again)  # the files of one load outlive the next


def test_a_file_that_was_cut_off_is_written_anew(table, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDICAL_VQA_CACHE", str(tmp_path / "cache"))
    file = table()
    whole = rows_of(load_vqa_dataset(str(file)))
    for path in kept(tmp_path / "cache"):
        path.write_bytes(path.read_bytes()[:100])
    assert rows_of(load_vqa_dataset(str(file))) == whole
    assert len(kept(tmp_path / "cache")) == 3


def test_a_full_disk_leaves_no_file(tmp_path):
    """In a process of its own, whose files may not be larger than 100 KB."""
    resource = pytest.importorskip("resource")
    rows = [{"image": "a.png", "question": f"{i}?", "answer": "yes" * 50, "split": "train"} for i in range(3_000)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    code = f"from processing.data import load_vqa_dataset\nload_vqa_dataset({str(tmp_path / 'rows.json')!r})"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"MEDICAL_VQA_CACHE": str(tmp_path / "cache")},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        capture_output=True,
        text=True,
    )
    assert "File too large" in run.stderr
    assert kept(tmp_path / "cache") == []


def test_a_refused_data_set_leaves_no_file(table, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDICAL_VQA_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="2 images are too few"):
        load_vqa_dataset(str(table(count=2)))
    assert kept(tmp_path / "cache") == []


def test_what_a_killed_process_left_is_swept_after_two_days(table, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDICAL_VQA_CACHE", str(tmp_path / "cache"))
    rows = tmp_path / "cache" / "rows"
    rows.mkdir(parents=True)
    old, new, other = (rows / name for name in (f".{'a' * 16}.arrow", f".{'b' * 16}.arrow", f"{'a' * 32}.arrow"))
    for file in (old, new, other):
        file.write_bytes(b"unfinished")
    three_days_ago = time.time() - 3 * 24 * 3600
    for file in (old, other):
        os.utime(file, (three_days_ago, three_days_ago))
    load_vqa_dataset(str(table()))
    assert (old.exists(), new.exists(), other.exists()) == (False, True, True)


def test_where_the_cache_can_not_be_written_rows_go_where_temporary_files_do(table, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file and no folder")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("MEDICAL_VQA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    loaded = load_vqa_dataset(str(table()))
    assert len(rows_of(loaded)) == 12
    assert {Path(part.cache_files[0]["filename"]).parent for part in loaded.values()} == {tmp_path / "temporary"}


def test_a_spool_gives_back_what_came_in_its_order_as_often_as_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("processing.spool.IN_MEMORY", 1_000)
    items = [
        {"image": StoredImage(f"{i}.png"), "answer": "\ud800", "problem": Problem("a", "b")} for i in range(2_500)
    ]
    spool = Spool(items)
    assert [*spool] == [*spool] == items
    assert isinstance(next(iter(spool))["image"], StoredImage)
    one, other = iter(spool), iter(spool)  # which do not disturb each other
    assert [next(one) for _ in range(BATCH + 1)][-1] == [next(other) for _ in range(BATCH + 1)][-1] == items[BATCH]
    spool.append("last")
    assert (len(spool), [*spool][-1]) == (2_501, "last")
    assert IN_MEMORY > 1_000
    assert not [*tmp_path.iterdir()]
    assert [*Spool()] == []


def test_values_of_a_column_are_counted_and_numbered_by_their_first_row(monkeypatch):
    monkeypatch.setattr("processing.row_values.BATCH", 7)
    texts = [f"t{i}" for i in np.random.default_rng(0).integers(0, 9, 100)]
    rows = datasets.Dataset.from_dict({"text": texts})
    chosen = rows.select(range(99, 0, -3))
    for some, own in (
        (rows, texts),
        (chosen, texts[99:0:-3]),
        (datasets.concatenate_datasets([rows, rows]), texts * 2),
    ):
        assert counts_of(some, "text") == Counter(own)
        assert list(counts_of(some, "text")) == list(dict.fromkeys(own))
        first = list(dict.fromkeys(own))
        assert numbers_of(some, "text").tolist() == [first.index(text) for text in own]
    assert numbers_of(rows.select([]), "text").tolist() == []


def test_loading_takes_no_memory_for_a_row(tmp_path):
    """What a process holds after it has read 60,000 rows is less than these rows as Python objects, 100 MB."""
    from benchmarks.data_scale import in_own_process, load, write_rows
    from processing.phantom.files import write_phantoms

    folder = write_rows(tmp_path / "rows", 60_000, write_phantoms(tmp_path / "phantoms", 20, image_size=96))
    measured = in_own_process(load, folder, str(tmp_path / "cache"))
    assert measured.count == 60_000
    if os.path.exists("/proc/self/status"):
        assert measured.memory < 60e6
