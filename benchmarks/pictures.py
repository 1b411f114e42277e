"""Makes the pictures of README and documentation from the model of `make demo`, on generated images only.

    python -m benchmarks.pictures output/demo [--only hero prefix app reading errors] [--folder docs]

The cards and the drawings of the shared prefix are the same for the same model. The pages of the app and of the wrong
answers are taken in a browser, which must be installed.
"""

import argparse
import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.canvas import save_small
from benchmarks.hero import choose_cards, draw_cards
from benchmarks.options import load_splits
from benchmarks.prefix_drawing import draw_shared_prefix
from benchmarks.vlm_prefix_drawing import draw_chat_prefix
from modeling.predictor import Predictor
from processing.errors import UserError, run_command
from processing.phantom.anatomy import draw_patient
from tests.support.app_page import ask, draw_box, upload
from tests.support.app_server import PATIENCE, ROOT, chromium, serve_app

DATASET = "phantom:600"  # of recipes/vilt_starter_phantom.yaml
EXAMPLE = "Head MRI"  # of the app
QUESTIONS = ("What modality is used to take this image?", "What diseases are included in the picture?")
PATIENT, SLICES = 9, 8  # of the stack, an abdomen
ORGAN = "Which organ is abnormal, heart or liver?"
BOX = (0.25, 0.35, 0.55, 0.65)  # of the region, in shares of the zoomed view
DESKTOP = {"width": 1280, "height": 1200}
PHONE = {"width": 390, "height": 844}
BETWEEN, GREY = 36, "#c9d3d6"  # two screens of a phone in one picture
SETTLE = 1_500  # ms, until nothing fades or moves


def make_hero(model: Path, folder: Path) -> None:
    """`demo.png`: questions, answers, confidence and heat maps."""
    rows = list(load_splits(DATASET, "test")["test"])
    save_small(draw_cards(choose_cards(Predictor.from_pretrained(model), rows)), folder / "demo.png")


def make_prefix(model: Path, folder: Path) -> None:
    """`shared_prefix.png` and `shared_prefix_vlm.png`: how BLIP-2 and chat models read several questions about an
    image; the same for every model."""
    save_small(draw_shared_prefix(), folder / "shared_prefix.png")
    save_small(draw_chat_prefix(), folder / "shared_prefix_vlm.png")


def make_app(model: Path, folder: Path) -> None:
    """`app.png`, `app_dark.png` and `app_phone.png`: the Streamlit app with an answer and its evidence."""
    with tempfile.TemporaryDirectory() as logs, serve_app(Path(logs) / "log", str(model.resolve())) as address:
        for name, scheme in (("app", "light"), ("app_dark", "dark")):
            with _page(address, viewport=DESKTOP, color_scheme=scheme) as page:
                _ask_in_app(page)
                save_small(_screenshot(page), folder / f"{name}.png")
        with _page(address, viewport=PHONE, device_scale_factor=1.5, is_mobile=True, has_touch=True) as page:
            _ask_in_app(page)
            screens = []
            for place in (page.get_by_text("Drawn images"), page.locator(".question").first):
                place.evaluate("place => place.scrollIntoView({block: 'start'})")
                page.wait_for_timeout(SETTLE)
                screens.append(_screenshot(page))
        save_small(_side_by_side(screens), folder / "app_phone.png")


def make_reading(model: Path, folder: Path) -> None:
    """`app_stack.png`, `app_region.png` and `app_report.png`: a stack, a region, and the report of the visit."""
    with tempfile.TemporaryDirectory() as rest, serve_app(Path(rest) / "log", str(model.resolve())) as address:
        slices = [picture for _, picture in draw_patient(PATIENT, 0, 224, SLICES)]
        stack = Path(rest) / "abdomen.tiff"
        slices[0].save(stack, save_all=True, append_images=slices[1:])
        with _page(address, viewport=DESKTOP) as page:
            page.get_by_text("Ready: ").wait_for()
            upload(page, stack)
            page.get_by_text(f"Ask about {SLICES} slices at once").click()
            ask(page, QUESTIONS[0])
            page.get_by_text("slices say so").wait_for()
            _rest(page)
            save_small(_screenshot(page), folder / "app_stack.png")
            page.get_by_text(f"Ask about {SLICES} slices at once").click()
            page.get_by_text("Zoom, read values, and draw a region").click()
            view = page.locator(".js-plotly-plot .nsewdrag")
            view.wait_for()
            page.wait_for_timeout(SETTLE)
            draw_box(page, view, BOX)
            page.wait_for_timeout(SETTLE)
            ask(page, ORGAN)
            page.get_by_text("In the region", exact=True).wait_for()
            _rest(page)
            save_small(_screenshot(page), folder / "app_region.png")
            with page.expect_download() as download:
                page.get_by_role("button", name="Report (HTML)").click()
            report = Path(rest) / "report.html"
            download.value.save_as(report)
        with _page(report.as_uri(), viewport={"width": 1000, "height": 900}) as page:
            save_small(_screenshot(page), folder / "app_report.png")


def make_errors(model: Path, folder: Path) -> None:
    """`errors.jpg`: the page of wrong answers of the model's report."""
    report = model / "report" / "errors.html"
    if not report.is_file():
        raise UserError(f"{report} is missing; train the model by `make demo`, which writes it.")
    with _page(report.resolve().as_uri(), viewport={"width": 1100, "height": 820}) as page:
        _screenshot(page).save(folder / "errors.jpg", quality=82, optimize=True)


MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "hero": make_hero,
    "prefix": make_prefix,
    "app": make_app,
    "reading": make_reading,
    "errors": make_errors,
}


@contextmanager
def _page(address: str, **options: Any) -> Iterator[Any]:
    """A page in a browser.

    Args:
        options: of the browser context.

    Raises:
        UserError: there is no browser.
    """
    executable = chromium()
    if executable is None:
        raise UserError("There is no chromium to take pictures with; install it, on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=executable) as browser:
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.goto(address)
        yield page


def _ask_in_app(page: Any) -> None:
    """Chooses an example, asks about it and waits for the outlines of what the model found."""
    page.get_by_text("Ready: ").wait_for()
    page.get_by_text("Examples", exact=True).click()
    page.get_by_text("Choose an image, or look at an example.").wait_for(state="detached")
    page.get_by_role("button", name=EXAMPLE, exact=True).click()
    page.get_by_alt_text(f"The chosen image, {EXAMPLE}").wait_for()
    for number, question in enumerate(QUESTIONS):
        ask(page, question)
        page.locator(".answer").nth(number).wait_for()
    page.get_by_alt_text("with outlines").wait_for()
    _rest(page)
    page.get_by_alt_text("with outlines").wait_for()


def _rest(page: Any) -> None:
    """Goes to the top of a page that has come to rest."""
    page.get_by_text("Download questions and answers").wait_for()
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(0, 0)
    page.get_by_role("heading", name="Ask about a medical image").scroll_into_view_if_needed()
    page.wait_for_timeout(SETTLE)
    page.locator("[data-test-script-state=notRunning]").wait_for()


def _screenshot(page: Any) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def _side_by_side(screens: list[Image.Image]) -> Image.Image:
    """Screens of one size beside each other."""
    width, height = screens[0].size
    whole = Image.new("RGB", ((width + BETWEEN) * len(screens) + BETWEEN, height + 2 * BETWEEN), GREY)
    for number, screen in enumerate(screens):
        whole.paste(screen, (BETWEEN + number * (width + BETWEEN), BETWEEN))
    return whole


def main(argv: list[str]) -> None:
    """Writes the pictures."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.pictures", description="Makes the pictures of README and documentation."
    )
    parser.add_argument("model", type=Path, help="folder of the model, as `make demo` leaves it in output/demo")
    parser.add_argument("--only", nargs="+", choices=MAKERS, default=list(MAKERS), help="which ones; by default all")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs", help="where they go; by default docs")
    options = parser.parse_args(argv)
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        MAKERS[name](options.model, options.folder)


if __name__ == "__main__":
    run_command(main)
