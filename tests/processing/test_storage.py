"""processing.storage: where files are kept, and that their text stays text."""

import json
from pathlib import Path

from processing.storage import cache_dir, write_jsonl


def test_cache_is_where_the_user_says_else_where_users_keep_theirs(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("MEDICAL_VQA_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == Path("/home/someone/.cache/medical-vqa")
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch")
    assert cache_dir() == Path("/scratch/medical-vqa")
    monkeypatch.setenv("MEDICAL_VQA_CACHE", "~/here")
    assert cache_dir() == Path("/home/someone/here")


def test_lines_of_json_keep_every_script_readable_and_half_a_character_escaped(tmp_path):
    rows = [{"answer": "左肺"}, {"answer": "é\u2028"}, {"answer": "\ud83d"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines == ['{"answer": "左肺"}', '{"answer": "é\u2028"}', r'{"answer": "\ud83d"}', ""]
    assert [json.loads(line) for line in lines[:-1]] == rows
