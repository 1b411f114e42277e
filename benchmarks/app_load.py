"""The Streamlit app under load: ten users at once, and what the app adds to the time of the model.

    python -m benchmarks.app_load MODEL [--users 10] [--questions 5]

Each user uploads an image of their own and asks about it. Two of them sit at real browsers. The others speak the app's
protocol (`benchmarks.app_client`) and take little of the machine, as users at computers of their own would. Every
answer is compared with the one that the model gives without the app. Needs chromium and the package playwright.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from playwright.async_api import Browser, Page, async_playwright

from benchmarks.app_client import Received, Visit, headers_of
from benchmarks.options import at_least
from modeling.predictor import Predictor
from processing.errors import UserError, run_command
from processing.phantom.files import cached_phantoms
from tests.support.app_server import ROOT, chromium, serve_app

QUESTIONS = (
    "What modality is used to take this image?",
    "Which part of the body does this image belong to?",
    "What is the largest organ in the picture?",
    "Does this image look normal?",
    "What diseases are included in the picture?",
)
BROWSERS = 2  # real ones among the users
TIMEOUT = 120_000  # ms, of a page
IDLE = '[data-testid="stApp"][data-test-script-state="notRunning"]'


@dataclass
class Load:
    """What users saw who asked at once, and what that took.

    Attributes:
        visits: by the kind of user, each list in the order of the images.
        cpu: seconds of all cores from the first question to the last answer, by what took them.
    """

    visits: dict[str, list[Visit]]
    cpu: dict[str, float]


async def visit(
    browser: Browser, number: int, address: str, image: Path, questions: int, ready: asyncio.Barrier
) -> Visit:
    """A user at a browser who uploads an image, waits until all users are ready, and asks.

    Args:
        number: of the user, from 0.
        questions: how many of `QUESTIONS` are asked.
        ready: is passed twice, when the user is ready and when all may begin.
    """
    result = Visit()
    page = await (await browser.new_context(extra_http_headers=headers_of(number))).new_page()
    page.set_default_timeout(TIMEOUT)
    await page.goto(address)
    await page.get_by_text("Ready: ").wait_for()
    await page.locator("input[type=file]").first.set_input_files(image)
    await page.get_by_alt_text(f"The chosen image, {image.name}").wait_for()
    await page.locator(IDLE).wait_for()
    box = page.get_by_placeholder("Ask about the image")
    await ready.wait()
    await _count_received(page, result.received)
    await ready.wait()
    for count, question in enumerate(QUESTIONS[:questions], 1):
        started = time.perf_counter()
        await box.fill(question)
        await box.press("Enter")
        await page.wait_for_function(f"document.querySelectorAll('.answer').length == {count}")
        result.seconds.append(time.perf_counter() - started)
        result.answers.append(await page.locator(".answer").first.inner_text())
        await page.locator(IDLE).wait_for()
    return result


async def _count_received(page: Page, received: Received) -> None:
    """Counts what a page takes from the app from now on; not what the browser has itself."""
    images: dict[str, str] = {}  # addresses by request

    def note_request(event: dict[str, Any]) -> None:
        if event["type"] == "Image":
            images[event["requestId"]] = event["request"]["url"]

    def note_end(event: dict[str, Any]) -> None:
        if size := event["encodedDataLength"]:
            received.add(size, images.get(event["requestId"]))

    def note_frame(event: dict[str, Any]) -> None:
        received.add(len(event["response"]["payloadData"]) * 3 // 4)  # in Base64

    network = await page.context.new_cdp_session(page)
    network.on("Network.requestWillBeSent", note_request)
    network.on("Network.loadingFinished", note_end)
    network.on("Network.webSocketFrameReceived", note_frame)
    await network.send("Network.enable")


async def visit_at_once(address: str, images: list[Path], questions: int) -> Load:
    """Users who start to ask at the same moment, one for each image, the first of them in one browser.

    Raises:
        UserError: there is no chromium.
        RuntimeError: the process of the other users failed.
    """
    executable = chromium()
    if executable is None:
        raise UserError("There is no chromium; install it, on Debian by apt-get install chromium.")
    users = [
        {"number": number, "image": str(image), "questions": QUESTIONS[:questions]}
        for number, image in enumerate(images)
    ]
    ready = asyncio.Barrier(min(BROWSERS, len(users)) + 1)
    command = (sys.executable, "-m", "benchmarks.app_client", address)
    pipe = asyncio.subprocess.PIPE
    clients = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=pipe, stdout=pipe, limit=2**26)
    assert clients.stdin is not None
    assert clients.stdout is not None
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        async with asyncio.TaskGroup() as group:
            in_browser = [
                group.create_task(visit(browser, number, address, image, questions, ready))
                for number, image in enumerate(images[:BROWSERS])
            ]
            clients.stdin.write(json.dumps(users[BROWSERS:]).encode() + b"\n")
            if await clients.stdout.readline() != b"ready\n":
                raise RuntimeError("The users without a browser could not open the app; see above.")
            await ready.wait()
            before = _cpu_seconds(address, clients.pid)
            clients.stdin.write(b"\n")
            await ready.wait()
            told = await clients.stdout.readline()
        after = _cpu_seconds(address, clients.pid)
        clients.stdin.write(b"\n")
        await browser.close()
    if await clients.wait():
        raise RuntimeError("The users without a browser did not get their answers; see above.")
    visits = {
        "browsers": [task.result() for task in in_browser],
        "light clients": [Visit.from_json(one) for one in json.loads(told)],
    }
    return Load(visits, {name: after[name] - before[name] for name in before})


def _cpu_seconds(address: str, clients: int) -> dict[str, float]:
    """The seconds of the app, of the light clients, and of the browsers with this process, which drives them."""
    seconds = {"app": 0.0, "light clients": 0.0, "browsers": 0.0}
    port = urlsplit(address).port
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        try:
            name = "browsers"
            if process.pid == clients:
                name = "light clients"
            elif any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in process.net_connections()):
                name = "app"
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        seconds[name] += times.user + times.system
    return seconds


def measure_many_users(model: str, predictor: Predictor, images: list[Path], questions: int) -> None:
    """Prints the seconds from question to answer for users who ask at once, one for each image, and what they took."""
    expected = [
        [answer.answer for answer in predictor.answer_batch(str(image), QUESTIONS[:questions])] for image in images
    ]
    with tempfile.TemporaryDirectory() as folder, serve_app(Path(folder) / "log", model) as address:
        load = asyncio.run(visit_at_once(address, images, questions))
    visits = [one for some in load.visits.values() for one in some]
    wrong = [
        f"{image.parent.name}: {question} {shown}, not {answer}"
        for image, one, answers in zip(images, visits, expected, strict=True)
        for question, shown, answer in zip(QUESTIONS, one.answers, answers, strict=False)
        if shown != answer
    ]
    answered = sum(len(one.seconds) for one in visits)
    print(f"{len(images)} users, {answered} of {len(images) * questions} answers, {len(wrong)} not the model's own")
    _print_seconds("all users", visits)
    for kind, some in load.visits.items():
        _print_seconds(f"{len(some)} {kind}", some)
    total = sum(load.cpu.values())
    shares = (f"{name} {seconds:.1f} s ({seconds / total:.0%})" for name, seconds in load.cpu.items())
    print(f"time of the cores: {', '.join(shares)}")
    for kind, some in load.visits.items():
        megabytes = sum(one.received.bytes for one in some) / 1e6
        images_sent = sum(len(one.received.images) for one in some)
        again = sum(len(one.received.images) - len(set(one.received.images)) for one in some)
        print(f"sent to {len(some)} {kind}: {megabytes:.2f} MB, {images_sent} images, {again} of them again")
    for text in wrong:
        print(text)


def _print_seconds(who: str, visits: Iterable[Visit]) -> None:
    seconds = [second for one in visits for second in one.seconds]
    if seconds:
        print(f"from question to answer, {who}: median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s")


def measure_one_user(model: str, predictor: Predictor, images: list[Path]) -> None:
    """Prints the time of the first and the second question about an image, and what the script of the app adds."""
    from streamlit import config
    from streamlit.testing.v1 import AppTest

    first: list[float] = []
    second: list[float] = []
    script: list[float] = []
    predictor.answer(str(images[-1]), QUESTIONS[0])  # warms up
    for image in images[:-1]:
        for times in (first, second):
            started = time.perf_counter()
            predictor.answer(str(image), QUESTIONS[0])
            times.append(time.perf_counter() - started)
    config.set_option("runner.magicEnabled", False)  # as in the app's own config.toml, which AppTest does not read
    os.environ["MODEL_ID"] = model
    test = AppTest.from_file(str(ROOT / "spaces_app" / "page.py"), default_timeout=300).run()
    for question in QUESTIONS * 2:
        started = time.perf_counter()
        test.chat_input[0].set_value(question).run()
        script.append(time.perf_counter() - started)
    first_ms, second_ms, script_ms = (1000 * statistics.median(times) for times in (first, second, script[1:]))
    share, extra_ms = second_ms / first_ms, script_ms - second_ms
    print(f"first question on an image {first_ms:.0f} ms, second {second_ms:.0f} ms ({share:.2f} of it)")
    print(f"a run of the app's script with a question {script_ms:.0f} ms, {extra_ms:.0f} ms more than the model")


def main(argv: list[str]) -> None:
    """The command line.

    Raises:
        UserError: the model can't be loaded, there is no chromium, or there are too few images for the users.
    """
    parser = argparse.ArgumentParser("python -m benchmarks.app_load", description="The Streamlit app under load.")
    parser.add_argument("model", help="folder or Hub id")
    parser.add_argument("--users", type=at_least(1), default=10, help="who ask at once")
    parser.add_argument(
        "--questions", type=at_least(1), default=len(QUESTIONS), help=f"of each user, at most {len(QUESTIONS)}"
    )
    options = parser.parse_args(argv)
    images = sorted((cached_phantoms() / "imgs").glob("*/source.jpg"))
    if options.users > len(images):
        raise UserError(f"--users {options.users}: there are only {len(images)} images; give at most as many users.")
    if options.questions > len(QUESTIONS):
        raise UserError(f"--questions {options.questions}: give at most {len(QUESTIONS)}.")
    predictor = Predictor.from_pretrained(options.model)
    measure_one_user(options.model, predictor, images[10:20])
    measure_many_users(options.model, predictor, images[: options.users], options.questions)


if __name__ == "__main__":
    run_command(main)
