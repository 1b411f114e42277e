"""The Streamlit app under load: ten users at once in real browsers, and what the app adds to the time of the model.

    python -m benchmarks.app_load MODEL [--users 10] [--questions 5]

Each user uploads an image of their own and asks about it. Every answer is compared with the one that the model gives
without the app. Needs chromium and the package playwright.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from playwright.async_api import Browser, async_playwright

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
TIMEOUT = 120_000  # ms, of a page


class Visit(NamedTuple):
    """What a user saw."""

    seconds: list[float]  # from the key press to the answer on the page, of each question
    wrong: list[str]  # answers that are not those of the model, in words


async def visit(
    browser: Browser, number: int, address: str, image: Path, expected: list[str], ready: asyncio.Barrier
) -> Visit:
    """A user who uploads an image, waits until all users are ready, and asks.

    Args:
        number: of the user, from 0.
        expected: the answers of the model to the first of `QUESTIONS`, which are asked.
    """
    result = Visit([], [])
    # each from an address of their own, so that no limit of a visitor is reached
    address_of_user = {"X-Forwarded-For": f"198.51.100.{number}"}
    page = await (await browser.new_context(extra_http_headers=address_of_user)).new_page()
    page.set_default_timeout(TIMEOUT)
    await page.goto(address)
    await page.get_by_text("Ready: ").wait_for()
    await page.locator("input[type=file]").first.set_input_files(image)
    await page.get_by_alt_text("The chosen image").wait_for()
    box = page.get_by_placeholder("Ask about the image")
    await ready.wait()
    for number, (question, answer) in enumerate(zip(QUESTIONS, expected, strict=False), 1):
        started = time.perf_counter()
        await box.fill(question)
        await box.press("Enter")
        await page.wait_for_function(f"document.querySelectorAll('.answer').length == {number}")
        result.seconds.append(time.perf_counter() - started)
        shown = await page.locator(".answer").first.inner_text()
        if shown != answer:
            result.wrong.append(f"{image.parent.name}: {question} {shown}, not {answer}")
    return result


async def visit_at_once(address: str, expected: dict[Path, list[str]]) -> list[Visit]:
    """Users who start to ask at the same moment, one for each image, in one browser.

    Raises:
        UserError: there is no chromium.
    """
    executable = chromium()
    if executable is None:
        raise UserError("There is no chromium; install it, on Debian by apt-get install chromium.")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        ready = asyncio.Barrier(len(expected))
        visits = (
            visit(browser, number, address, image, answers, ready)
            for number, (image, answers) in enumerate(expected.items())
        )
        return await asyncio.gather(*visits)


def measure_many_users(model: str, predictor: Predictor, images: list[Path], questions: int) -> None:
    """Prints the seconds from key press to answer for users who ask at once, one for each image."""
    expected = {
        image: [answer.answer for answer in predictor.answer_batch(str(image), QUESTIONS[:questions])]
        for image in images
    }
    with tempfile.TemporaryDirectory() as folder, serve_app(Path(folder) / "log", model) as address:
        visits = asyncio.run(visit_at_once(address, expected))
    seconds = sorted(second for visit in visits for second in visit.seconds)
    wrong = [text for visit in visits for text in visit.wrong]
    asked = len(images) * questions
    print(f"{len(images)} users, {len(seconds)} of {asked} answers, {len(wrong)} not the model's own")
    print(f"from key press to answer: median {statistics.median(seconds):.2f} s, worst {seconds[-1]:.2f} s")
    for text in wrong:
        print(text)


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
    test.button_group[0].set_value("Examples").run()
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
