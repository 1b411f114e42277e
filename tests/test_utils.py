"""processing.utils: files are written whole, and their text stays text."""

import json

from processing.utils import write_jsonl


def test_lines_of_json_keep_every_script_readable_and_half_a_character_escaped(tmp_path):
    rows = [{"answer": "左肺"}, {"answer": "é\u2028"}, {"answer": "\ud83d"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines == ['{"answer": "左肺"}', '{"answer": "é\u2028"}', r'{"answer": "\ud83d"}', ""]
    assert [json.loads(line) for line in lines[:-1]] == rows
