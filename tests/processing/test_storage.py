"""processing.storage: where files are kept, and that their text stays text."""

import csv
import io
import json
import os
import stat
from pathlib import Path

import pytest

from processing.storage import cache_dir, csv_text, write_atomically, write_jsonl


def test_cache_is_where_the_user_says_else_where_users_keep_theirs(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("MEDICAL_VQA_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == Path("/home/someone/.cache/medical-vqa")
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch")
    assert cache_dir() == Path("/scratch/medical-vqa")
    monkeypatch.setenv("MEDICAL_VQA_CACHE", "~/here")
    assert cache_dir() == Path("/home/someone/here")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_written_file_has_the_usual_permissions_and_the_process_keeps_its_own(tmp_path, monkeypatch, umask, mode):
    before = os.umask(umask)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda _: pytest.fail("files of other threads would be open to all"))
            write_atomically(tmp_path / "new" / "file.txt", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new" / "file.txt").stat().st_mode) == mode
    assert (tmp_path / "new" / "file.txt").read_bytes() == b"text"


@pytest.mark.parametrize("mode", [0o600, 0o444, 0o664])
def test_a_file_that_is_written_again_keeps_its_permissions(tmp_path, mode):
    file = tmp_path / "file.txt"
    file.write_text("old")
    file.chmod(mode)
    write_atomically(file, "new")
    assert stat.S_IMODE(file.stat().st_mode) == mode
    assert file.read_text() == "new"


def test_a_symbolic_link_stays_one_and_its_file_is_written(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link, target = tmp_path / "link.txt", tmp_path / "elsewhere" / "target.txt"
    link.symlink_to(target)
    for text in ("first", "second"):  # the target is not there yet, then it is
        write_atomically(link, text)
        assert link.readlink() == target
        assert target.read_text() == text
    assert [file.name for file in target.parent.iterdir()] == ["target.txt"]


@pytest.mark.parametrize("length", [240, 255])
def test_the_longest_names_of_files_are_written(tmp_path, length):
    name = "n" * (length - 5) + ".json"
    write_atomically(tmp_path / name, "text")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "text")]


def test_failed_write_leaves_what_was_there_and_nothing_beside_it(tmp_path, monkeypatch):
    write_atomically(tmp_path / "file.txt", "old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file.txt", "new")
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]
    assert (tmp_path / "file.txt").read_text() == "old"


def test_lines_of_json_keep_every_script_readable_and_half_a_character_escaped(tmp_path):
    rows = [{"answer": "左肺"}, {"answer": "é\u2028"}, {"answer": "\ud83d"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines == ['{"answer": "左肺"}', '{"answer": "é\u2028"}', r'{"answer": "\ud83d"}', ""]
    assert [json.loads(line) for line in lines[:-1]] == rows


FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "-5 mm", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "-", "+", "＝1", "-5%"]  # noqa: RUF001
FORMULAS += ["=HYPERLINK(...)", "--1", "-1-1", "+1 cm", "-1,5", "- 5", "@"]
HARMLESS = ["-5", "+3.2", "-.5", "-1e-7", "5", "yes", "HER2+", "<5", "a=b", "'quoted", "", " =1", "x@y", "左肺", "5-6"]


@pytest.mark.parametrize("text", FORMULAS, ids=repr)
def test_what_a_spreadsheet_would_run_gets_an_apostrophe(text):
    [header, row] = csv.reader(io.StringIO(csv_text([text, "b"], [{text: text, "b": 1}]), newline=""))
    assert header == [f"'{text}", "b"]
    assert row == [f"'{text}", "1"]


@pytest.mark.parametrize("text", HARMLESS, ids=repr)
def test_plain_numbers_and_all_other_text_stay_as_they_are(text):
    [_, row] = csv.reader(io.StringIO(csv_text(["a", "b"], [{"a": text, "b": -0.5}]), newline=""))
    assert row == [text, "-0.5"]
