"""Shared fixtures. Nothing here reaches beyond loopback, and every cache is a temporary folder."""

import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.app_server import PATIENCE, chromium
from tests.support.hub.server import HubServer

# huggingface_hub reads these when it is imported, so they are set before anything imports it.
HUB = HubServer()
_caches = tempfile.TemporaryDirectory()
os.environ |= {
    "HF_ENDPOINT": HUB.url,
    "HF_HOME": f"{_caches.name}/hf",
    "HF_HUB_DISABLE_XET": "1",
    "MEDICAL_VQA_CACHE": f"{_caches.name}/medical-vqa",
    "NO_PROXY": "127.0.0.1,localhost",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",  # one worker a core: threads that wait for each other cost far more than they bring
}
for variable in ("HF_TOKEN", "HF_HUB_OFFLINE", "ACCELERATE_MIXED_PRECISION"):
    os.environ.pop(variable, None)

import pytest  # noqa: E402

from processing.phantom.files import write_phantoms  # noqa: E402


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """The level of the log as a program starts with it: a command line that a test runs sets another."""
    before = logging.root.level
    logging.root.setLevel(logging.WARNING)
    yield
    logging.root.setLevel(before)


@pytest.fixture
def hub() -> HubServer:
    """A Hub on loopback, empty at the start of each test."""
    HUB.reset()
    return HUB


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that may write, in the environment."""
    monkeypatch.setenv("HF_TOKEN", "hf_write")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long is waited before each further try at the Hub; nobody waits, in tests."""
    waits: list[float] = []
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr("modeling.hub.retries.time", SimpleNamespace(sleep=waits.append))
    return waits


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small phantom data set: 28 images of 96 px."""
    return write_phantoms(tmp_path_factory.mktemp("phantoms") / "set", num_images=28, image_size=96)


@pytest.fixture(scope="session")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms whose truth is known: 60 patients of 4 slices each, of 224 px."""
    return write_phantoms(tmp_path_factory.mktemp("patients") / "set", num_images=240, slices=4)


BLIP2 = ["--model_type", "blip2", "--lora_targets", "attention", "dense", "projection", "language_model"]
RUNS = {
    "vilt": ["--model_name_or_path", "scratch:tiny", "--max_steps", "150"],
    "starter": ["--model_name_or_path", "starter"],
    "opt": [*BLIP2, "--prompt", "Q: {} A:", "--generation_num_beams", "2"],
    "llama": [*BLIP2, "--answer_candidates", "train", "--merge_adapter", "True", "--fp16", "False"],
    "t5": [*BLIP2, "--fp16", "False", "--max_steps", "60", "--learning_rate", "0.3"],
    "smolvlm": ["--model_type", "vlm", "--fp16", "False", "--merge_adapter", "True"],
}


@pytest.fixture(scope="session")
def runs(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a name in `RUNS` to the folder of that run, trained a little by the real `train.py`."""
    import train
    from processing.data import load_vqa_dataset
    from tests.support.tiny_blip2 import tiny_blip2
    from tests.support.tiny_vlms import save_tiny_vlm

    folder = tmp_path_factory.mktemp("runs")
    common = ["--dataset", str(phantoms), "--max_steps", "12", "--per_device_train_batch_size", "16"]
    common += ["--learning_rate", "5e-3", "--eval_strategy", "no", "--save_strategy", "no", "--disable_tqdm", "True"]

    def run(name: str) -> Path:
        if not (folder / name).is_dir():
            base = []
            if name in ("opt", "llama", "t5"):
                dataset = load_vqa_dataset(str(phantoms))
                base = ["--model_name_or_path", str(tiny_blip2(name, dataset, folder / f"base-{name}"))]
            elif name == "smolvlm":
                base = ["--model_name_or_path", str(save_tiny_vlm(name, folder / f"base-{name}"))]
            train.main([*common, *RUNS[name], *base, "--output_dir", str(folder / name)])
        return folder / name

    return run


@pytest.fixture(scope="session")
def trained(runs: Callable[[str], Path]) -> Path:
    """The folder of a tiny ViLT, trained a little on `phantoms`."""
    return runs("vilt")


TROUBLES: list[str] = []  # of the pages of the test that runs: what they could not fetch, and errors of their scripts


def _prepare_context(context: Any) -> None:
    """Makes the pages of a browser context patient, and notes their troubles."""
    context.set_default_timeout(PATIENCE)
    context.on("requestfailed", lambda request: TROUBLES.append(f"{request.method} {request.url}: {request.failure}"))
    context.on("weberror", lambda error: TROUBLES.append(str(error.error)))
    context.on("console", lambda message: message.type == "error" and TROUBLES.append(message.text))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests begin first.

    A page that is not there in time is tried once more: on a busy machine a browser may lose a request.
    """
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.flaky(reruns=1, only_rerun="(?i)timeout"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says which tests were tried again, so that a browser test that often needs it is noticed."""
    reruns = terminalreporter.stats.get("rerun", [])
    if reruns:
        terminalreporter.section("tests that were run again")
        for name, count in sorted(Counter(report.nodeid for report in reruns).items()):
            terminalreporter.line(f"{name}: {count} more")
        terminalreporter.line(f"{len(reruns)} in all")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Adds to the error of a test what its pages show."""
    TROUBLES.clear()
    try:
        return (yield)
    except Exception as error:
        browser = getattr(item, "funcargs", {}).get("browser")
        for page in [page for context in browser.contexts for page in context.pages] if browser else ():
            with suppress(Exception):  # a page that crashed must not hide why
                error.add_note(f"{page.url} showed:\n{page.locator('body').inner_text(timeout=5_000)}")
        for trouble in TROUBLES:
            error.add_note(trouble)
        raise


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless chromium, for pages as users see them."""
    executable = chromium()
    if executable is None:
        pytest.skip("There is no chromium to drive; install it, on Debian by apt-get install chromium.")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        browser.on("context", _prepare_context)
        yield browser
        browser.close()


def _real_data(variable: str, name: str) -> Path:
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} is not set: it names the folder of the {name} data set")
    if not Path(folder).is_dir():
        pytest.skip(f"{variable}={folder}: there is no such folder with the {name} data set")
    return Path(folder)


@pytest.fixture(scope="session")
def slake() -> Path:
    """The real SLAKE folder."""
    return _real_data("SLAKE_DIR", "SLAKE")


@pytest.fixture(scope="session")
def vqa_rad() -> Path:
    """The real VQA-RAD folder."""
    return _real_data("VQA_RAD_DIR", "VQA-RAD")
