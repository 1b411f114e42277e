"""Ten users at once against the Streamlit app, in real browsers; and what the app adds to the model's own time.

    python -m benchmarks.app_load MODEL [--users 10] [--questions 5]

Each user uploads an image of their own and asks; every answer is compared with the one that the model gives alone.
Needs chromium and the package playwright.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

from playwright.async_api import Browser, async_playwright

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
PATIENCE = 120_000  # ms


async def visit(
    browser: Browser, address: str, image: Path, expected: list[str], ready: asyncio.Barrier
) -> tuple[list[float], list[str]]:
    """A visitor who asks about an image: seconds of each answer, and those that are not the model's own."""
    seconds, wrong = [], []
    page = await (await browser.new_context()).new_page()
    page.set_default_timeout(PATIENCE)
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
        seconds.append(time.perf_counter() - started)
        if (found := await page.locator(".answer").first.inner_text()) != answer:
            wrong.append(f"{image.parent.name}: {question} {found}, not {answer}")
    return seconds, wrong


async def crowd(address: str, expected: dict[Path, list[str]]) -> list[tuple[list[float], list[str]]]:
    """Visitors who start to ask at the same moment, one for each image, in one browser."""
    executable = chromium()
    if executable is None:
        raise UserError("There is no chromium; install it, on Debian by apt-get install chromium.")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        ready = asyncio.Barrier(len(expected))
        visits = (visit(browser, address, image, answers, ready) for image, answers in expected.items())
        return await asyncio.gather(*visits)


def under_load(model: str, predictor: Predictor, users: int, count: int) -> None:
    """Prints the latencies of users who ask at once, from the key press to the answer on the page."""
    images = sorted((cached_phantoms() / "imgs").glob("*/source.jpg"))[:users]
    expected = {
        image: [answer.answer for answer in predictor.answer_batch(str(image), QUESTIONS[:count])] for image in images
    }
    with tempfile.TemporaryDirectory() as folder, serve_app(Path(folder) / "log", model) as address:
        visits = asyncio.run(crowd(address, expected))
    seconds = sorted(second for times, _ in visits for second in times)
    wrong = [text for _, texts in visits for text in texts]
    print(f"{users} users, {len(seconds)} of {users * count} answers, {len(wrong)} not the model's own")
    print(f"from key press to answer: median {statistics.median(seconds):.2f} s, worst {seconds[-1]:.2f} s")
    print(*wrong, sep="\n", end="")


def alone(model: str, predictor: Predictor) -> None:
    """Prints the time of first and second questions, and of a run of the app's script beside the model's own."""
    from streamlit import config
    from streamlit.testing.v1 import AppTest

    first, second, script = [], [], []
    images = sorted((cached_phantoms() / "imgs").glob("*/source.jpg"))[10:20]
    predictor.answer(str(images[-1]), QUESTIONS[0])
    for image in images[:-1]:
        for times in (first, second):
            started = time.perf_counter()
            predictor.answer(str(image), QUESTIONS[0])
            times.append(time.perf_counter() - started)
    config.set_option("runner.magicEnabled", False)  # as in the app's own config.toml, which AppTest does not read
    os.environ["MODEL_ID"] = model
    test = AppTest.from_file(str(ROOT / "spaces_app" / "app.py"), default_timeout=300).run()
    test.button_group[0].set_value("Examples").run()
    for question in QUESTIONS * 2:
        started = time.perf_counter()
        test.chat_input[0].set_value(question).run()
        script.append(time.perf_counter() - started)
    one, two, whole = (1000 * statistics.median(times) for times in (first, second, script[1:]))
    print(f"first question on an image {one:.0f} ms, second {two:.0f} ms ({two / one:.2f} of it)")
    print(f"a run of the app's script with a question {whole:.0f} ms, {whole - two:.0f} ms more than the model")


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.app_load")
    parser.add_argument("model", help="folder or Hub id")
    parser.add_argument("--users", type=int, default=10)
    parser.add_argument(
        "--questions", type=int, default=len(QUESTIONS), help=f"of each user, at most {len(QUESTIONS)}"
    )
    options = parser.parse_args(argv)
    predictor = Predictor.from_pretrained(options.model)
    alone(options.model, predictor)
    under_load(options.model, predictor, options.users, options.questions)


if __name__ == "__main__":
    run_command(main)
