"""All that reads files, given every file of `tests.support.broken_files`: one sentence, in little time and memory."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from playwright.sync_api import expect

from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.storage import cache_dir
from spaces_app.limits import QUESTIONS
from tests.support import app_server
from tests.support.broken_files import archives, hostile_archives, images

ROOT = Path(__file__).parents[2]
SECONDS = 5  # on the CPU, whatever else the machine does
MEGABYTES = 1024
OPEN = {"pages.tif", "chunk-length.png", "length.dcm"}  # may open: the first picture is whole, and so are the pixels


@pytest.fixture(scope="module")
def report():
    """The messages of image reader, data set reader, predictor and archive reader, in a process of their own."""
    command = [sys.executable, "-m", "tests.support.broken_files"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


def is_sentence(text: str) -> bool:
    return bool(re.fullmatch(r"[^\n]{10,600}\.", text)) and "/tmp/" not in text.replace("/tmp/evil", "")


@pytest.mark.xdist_group("broken files")
@pytest.mark.parametrize("reader", ["image", "predictor"])
def test_broken_file_is_one_sentence(report, reader):
    found = report["report"][reader]
    assert len(found) == len(images()) >= 75
    assert {name for name, (_, message) in found.items() if not message} <= OPEN
    assert {name: message for name, (_, message) in found.items() if message and not is_sentence(message)} == {}


@pytest.mark.xdist_group("broken files")
def test_broken_file_is_a_bad_row_of_a_data_set(report):
    found = report["report"]["data set"]
    assert {name for name, (_, message) in found.items() if not message} <= OPEN
    assert not [name for name, (_, message) in found.items() if "\n" in message.strip() and name not in message]


@pytest.mark.xdist_group("broken files")
def test_broken_archive_is_one_sentence(report):
    found = report["report"]["archive"]
    assert found.keys() == archives().keys()
    assert {name: message for name, (_, message) in found.items() if not is_sentence(message)} == {}


@pytest.mark.xdist_group("broken files")
def test_nothing_takes_much_time_on_the_cpu_or_much_memory(report):
    slow = {
        f"{reader}: {name}": seconds
        for reader, found in report["report"].items()
        for name, (seconds, _) in found.items()
        if seconds > SECONDS
    }
    assert slow == {}
    assert report["peak_mb"] - report["start_mb"] < MEGABYTES / 2
    assert report["peak_mb"] < MEGABYTES or torch.version.cuda  # whose libraries alone take half of it


@pytest.mark.parametrize("kind", hostile_archives())
def test_hostile_archive_of_a_data_set_writes_nothing_elsewhere(hub, phantoms, kind):
    files = {f"{split}.json": (phantoms / f"{split}.json").read_bytes() for split in ("train", "validate", "test")}
    hub.repos["datasets/user/hostile"] = files | {"imgs.zip": hostile_archives()[kind]}
    with pytest.raises(UserError) as error:  # or that too few images are left, where the name does no harm here
        load_vqa_dataset("user/hostile")
    harmless = kind in ("climbs by backslash", "drive", "newline", "device")
    assert harmless or re.fullmatch(r"imgs\.zip: [^\n]+\.", str(error.value))
    assert not list(cache_dir().rglob("evil.txt"))
    assert not list(cache_dir().rglob("link"))
    assert not Path("/tmp/evil.txt").exists()


def peak_mb(log: Path) -> float:
    """The most memory that the server with this log has had."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if str(log) in {str((status.parent / "fd" / "1").readlink())}:
                return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024
        except OSError:  # it has ended, or is another user's
            continue
    raise AssertionError("the server is gone")


@pytest.mark.xdist_group("gradio")
def test_gradio_app_answers_each_broken_file_in_one_sentence(trained, tmp_path):
    corpus, log = dict(list(images().items())[::3]), tmp_path / "log"
    command = ("-m", "spaces_app.gradio_app")
    messages = {}
    variables = {"MODEL_ID": str(trained), "GRADIO_SERVER_PORT": "PORT", "TRUSTED_PROXIES": "1"}
    with app_server.serve(log, *command, **variables) as url:
        for number, (name, data) in enumerate(corpus.items()):
            if number % QUESTIONS.amount == 0:  # another visitor, as each may ask so often in a minute
                client = Client(url, verbose=False, headers={"X-Forwarded-For": f"198.51.100.{number}"})
            (tmp_path / name).write_bytes(data)
            try:
                client.predict(handle_file(tmp_path / name), "Is this a CT?", api_name="/answer")
                messages[name] = ""
            except AppError as error:
                messages[name] = str(error)
        assert peak_mb(log) < MEGABYTES * 1.5  # with torch and gradio
    assert {name for name, text in messages.items() if not text} <= OPEN
    assert {name: text for name, text in messages.items() if text and not is_sentence(text)} == {}
    assert "Traceback" not in log.read_text()


@pytest.mark.xdist_group("apps")
def test_streamlit_app_answers_each_broken_file_in_one_sentence(runs, browser, tmp_path):
    names = [name for name in images() if name.endswith((".png", ".jpg", ".tif", ".dcm")) and name not in OPEN][::8]
    log = tmp_path / "log"
    with app_server.serve_app(log, str(runs("vilt"))) as url:
        page = browser.new_page()
        for name in names:
            (tmp_path / name).write_bytes(images()[name])
            page.goto(url)
            page.get_by_text("Ready: ").wait_for()
            page.locator("input[type=file][multiple]").first.set_input_files(tmp_path / name)
            expect(page.get_by_text(f"Cannot open '{name}'")).to_be_visible()
            expect(page.get_by_text("Traceback")).to_have_count(0)
        page.close()
    assert len(names) >= 6
    assert "Traceback" not in log.read_text()
