"""Slices, windows and regions in the Gradio app: by its API, on its page, and the functions below them."""

import io
import re

import httpx
import nibabel
import numpy as np
import pydicom.data
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image, ImageOps

from modeling.asking.regions import ask_about_region
from modeling.predictor import Predictor
from processing.errors import UserError
from processing.image_source import ImageBytes
from processing.images import open_image
from processing.regions import Region
from processing.windows import CT_WINDOWS, OWN, PERCENTILE_WINDOWS
from spaces_app import gradio_app
from spaces_app.gradio_view import (
    View,
    describe,
    in_words,
    open_view,
    region_of_percents,
    region_of_shares,
    with_corners,
)
from spaces_app.limits import Limit
from tests.support.gradio_server import serve_gradio
from tests.support.image_files import encoded

pytestmark = pytest.mark.xdist_group("gradio")
QUESTION = "Is this a CT scan?"
CT = pydicom.data.get_testdata_file("CT_small.dcm")


def stack(*greys: int, size: tuple[int, int] = (64, 64)) -> bytes:
    """A TIFF with a page of each grey."""
    first, *others = (Image.new("L", size, grey) for grey in greys)
    return encoded(first, "TIFF", save_all=True, append_images=others)


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor.from_pretrained(trained, dtype="float32")


@pytest.fixture(scope="module")
def app(predictor, tmp_path_factory):
    with serve_gradio(predictor, tmp_path_factory.mktemp("uploads")) as page:
        yield page


@pytest.fixture
def client(url):
    return Client(url, verbose=False)


# The functions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "grey"), [(0, 20), (1, 10), (2, 20), (3, 30), (4, 40)])
def test_a_view_is_of_its_slice_and_by_default_of_the_middle(number, grey):
    assert open_view(stack(10, 20, 30, 40), View(number)).getpixel((5, 5)) == (grey,) * 3


def test_black_and_white_are_exchanged():
    assert open_view(stack(10), View(inverted=True)).getpixel((5, 5)) == (245,) * 3


def test_percentiles_are_those_of_the_slice_that_is_shown():
    ramp = np.arange(100, dtype=np.uint8).reshape(10, 10)
    pages = [Image.fromarray(values) for values in (ramp * 0, ramp)]
    data = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    shown = np.asarray(open_view(data, View(2, percentiles=(0, 100))))[..., 0]
    assert (shown.min(), shown.max()) == (0, 255)


def test_windows_of_ct_are_offered_for_ct_alone():
    with open(CT, "rb") as file:
        assert describe(file.read()) == (1, [OWN, *CT_WINDOWS, *PERCENTILE_WINDOWS])
    assert describe(stack(10, 20, 30)) == (3, [OWN, *PERCENTILE_WINDOWS])
    assert describe(encoded(Image.new("RGB", (8, 8), (1, 2, 3)), "PNG")) == (1, [])
    for air, presets in ((-1000, [OWN, *CT_WINDOWS, *PERCENTILE_WINDOWS]), (-100, [OWN, *PERCENTILE_WINDOWS])):
        volume = nibabel.Nifti1Image(np.full((8, 8, 5), air, np.int16), np.eye(4))
        volume.get_fdata()[...] = 0
        values = np.asarray(volume.dataobj).copy()
        values[0] = 400
        assert describe(nibabel.Nifti1Image(values, np.eye(4)).to_bytes()) == (5, presets)


@pytest.mark.parametrize("shares", [[], [0.1, 0.2, 0.3], "0.1", {"path": "x"}, [0, 0, 1, True], [0, 0, 1, "1"]])
def test_a_region_that_is_not_four_numbers_is_one_sentence(shares):
    with pytest.raises(UserError, match=r"^The region must be four numbers from 0 to 1: [^.]*\.$"):
        region_of_shares(shares)


def test_a_region_is_read_in_shares_and_in_percent():
    assert region_of_shares(None) is None
    assert region_of_shares([0, 0.25, 0.5, 1]) == Region(0, 0.25, 0.5, 1)
    assert region_of_percents([None] * 4) is region_of_percents([10, 20, None, None]) is None
    assert region_of_percents([0, 25, 50, 100]) == Region(0, 0.25, 0.5, 1)
    with pytest.raises(UserError, match=r"^The region has fewer than four edges; give all of them, or forget"):
        region_of_percents([10, 20, 30, None])


def test_a_region_and_its_first_corner_are_drawn_and_said():
    black = Image.new("RGB", (101, 101))
    for edges, there, said in (
        ([20, 30, 60, 70], {(40, 30), (20, 50), (60, 50), (40, 70)}, "Region: 20 to 60 % across, 30 to 70 % down."),
        ([20, 30, None, None], {(16, 30), (20, 34)}, "One corner of a region is chosen. Click the opposite one."),
        ([None] * 4, set(), ""),
    ):
        drawn = with_corners(black, edges)
        assert {place for place in there if drawn.getpixel(place) == (255, 255, 255)} == there
        assert drawn.getpixel((40, 50)) == (0, 0, 0)
        assert in_words(edges) == said
    assert black.getextrema() == ((0, 0),) * 3


# By program ----------------------------------------------------------------------------------------------------------


def confidence(details: dict) -> tuple:
    return details["answer"], pytest.approx(details["confidence"], rel=1e-3)


def test_old_calls_work_and_what_is_new_is_optional(client, predictor, image):
    parameters = client.view_api(return_format="dict", print_info=False)["named_endpoints"]["/answer"]["parameters"]
    told = [(one["parameter_name"], one["parameter_has_default"], one["parameter_default"]) for one in parameters]
    new = [("slice", True, 0), ("window_center", True, 0), ("window_width", True, 0), ("region", True, None)]
    assert told == [("image", False, None), ("question", False, None), *new]
    _, details = client.predict(image=handle_file(image), question=QUESTION, api_name="/answer")
    expected = predictor.answer(image, QUESTION)
    assert (expected.answer, expected.confidence) == confidence(details)
    assert details["region"] is None


def test_the_slice_that_is_named_is_asked_about(client, predictor, phantoms, tmp_path):
    first, *others = (Image.open(phantoms / "imgs" / f"xmlab{number}" / "source.jpg") for number in (1, 2, 3))
    file = tmp_path / "stack.tiff"
    first.save(file, save_all=True, append_images=others)
    expected = [predictor.answer(f"{file}#{number}", QUESTION) for number in (1, 2, 3)]
    assert len({round(one.confidence, 4) for one in expected}) == 3
    for number, slice_number in ((0, 1), (1, 2), (2, 3), (1, 0)):
        _, details = client.predict(handle_file(file), QUESTION, slice_number, api_name="/answer")
        assert (expected[number].answer, expected[number].confidence) == confidence(details)


def test_a_volume_is_answered(client, tmp_path):
    values = np.random.default_rng(0).integers(-1000, 1000, (32, 32, 5)).astype(np.int16)
    nibabel.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / "volume.nii.gz")
    _, details = client.predict(handle_file(tmp_path / "volume.nii.gz"), QUESTION, slice=5, api_name="/answer")
    assert details["answer"]


def test_the_window_that_is_named_is_what_the_model_sees(client, predictor):
    shown, details = client.predict(handle_file(CT), QUESTION, 0, 40, 80, api_name="/answer")
    in_window, own = (predictor.answer(open_image(CT, window=window), QUESTION) for window in ((40, 80), None))
    assert abs(in_window.confidence - own.confidence) > 1e-3
    assert (in_window.answer, in_window.confidence) == confidence(details)
    assert shown["label"] == in_window.answer


def test_a_region_is_asked_about_alone_and_limits_the_evidence(client, predictor, image):
    shares = [0.25, 0.25, 0.75, 0.75]
    _, details = client.predict(handle_file(image), QUESTION, region=shares, api_name="/answer")
    expected = ask_about_region(predictor, open_image(image), QUESTION, Region(*shares))
    assert (expected.region.answer, expected.region.confidence) == confidence(details["region"])
    assert (expected.whole.answer, expected.whole.confidence) == confidence(details)
    assert details["region"]["evidence"] is None
    cells = np.array(details["evidence"]["cells"])
    np.testing.assert_allclose(cells, expected.whole.evidence.cells, atol=1e-3)
    middles = (np.arange(len(cells)) + 0.5) / len(cells)
    outside = (middles < 0.25) | (middles > 0.75)
    assert not cells[outside].any()
    assert not cells[:, outside].any()
    assert cells.any()


def test_mistakes_about_views_are_one_sentence(client, image):
    for options, message in (
        ({"slice": 2}, "Cannot open the image: "),
        ({"slice": -1}, "There is no slice -1; they are counted from 1, and 0 is the one in the middle."),
        ({"window_width": -5}, "Cannot open the image: the window is not (center, width) with a width above 0;"),
        ({"region": [0.5, 0.5, 0.4, 0.6]}, "The region is not inside the image; "),
        ({"region": [0.1]}, "The region must be four numbers from 0 to 1: "),
    ):
        with pytest.raises(AppError) as error:
            client.predict(handle_file(image), QUESTION, **options, api_name="/answer")
        assert str(error.value).startswith(message)
        assert "\n" not in str(error.value)


def test_no_input_makes_the_server_fetch_an_address(url, image, hub):
    """Gradio would fetch a file whichever input names it; the Hub of the tests is a server that counts requests."""
    path = httpx.post(f"{url}/gradio_api/upload", files={"files": image.read_bytes()}).json()[0]
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    address = {"path": f"{hub.url}/x.png", "meta": {"_type": "gradio.FileData"}}
    sentence = "The image is an address on the internet; send the file itself."
    for data in (
        [address, QUESTION],
        [file, address],
        [file, QUESTION, address],
        [file, QUESTION, 0, 0, 0, address],
        [file, QUESTION, 0, 0, 0, [{"x": [address]}]],
    ):
        event = httpx.post(f"{url}/gradio_api/call/answer", json={"data": data}).json()["event_id"]
        assert sentence in httpx.get(f"{url}/gradio_api/call/answer/{event}").text
    assert hub.requests == []


def test_the_page_and_its_fonts_come_from_the_app_alone(browser, url):
    page = browser.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.get_by_label("Question").wait_for()
    page.evaluate("document.fonts.ready")
    assert [address for address in asked if address.endswith(".woff2")]
    assert not [address for address in asked if not address.startswith((url, "data:", "blob:"))]
    style = page.request.get(f"{url}/theme.css").text()
    assert not re.findall(r"""(?:url\(|@import)\s*["']?(?:https?:)?//[^)"']*""", style)
    page.close()


# By hand -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def page(browser, url):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.get_by_label("Question").wait_for()
    yield page
    assert not [address for address in asked if not address.startswith((url, "data:", "blob:"))]
    page.close()


def upload(page, data: bytes) -> None:
    page.locator("input[type=file]").first.set_input_files({"name": "x", "mimeType": "", "buffer": data})


def shown(page) -> Image.Image:
    """The picture on the page."""
    address = page.get_by_alt_text("The uploaded image").get_attribute("src")
    return Image.open(io.BytesIO(page.request.get(address).body())).convert("RGB")


def wait_for_grey(page, grey: int) -> None:
    """Until the middle of the picture is so grey; it is a WebP, so nearly."""
    for _ in range(200):
        picture = shown(page)
        found = picture.getpixel((picture.width // 2, picture.height // 2))
        if max(abs(part - grey) for part in found) <= 2:
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"the picture shows {found}, not {grey}")


def test_a_stack_has_a_slider_that_starts_in_the_middle(page):
    upload(page, stack(20, 90, 160, 230))
    page.get_by_alt_text("The uploaded image").wait_for()
    wait_for_grey(page, 90)
    slider = page.get_by_role("slider", name="Slice")
    assert (slider.input_value(), slider.get_attribute("max")) == ("2", "4")
    slider.press("ArrowRight")  # by the keyboard
    wait_for_grey(page, 160)
    page.get_by_label("Clear").first.click()
    upload(page, stack(50))
    wait_for_grey(page, 50)
    slider.wait_for(state="hidden")


def test_the_window_and_the_exchange_of_black_and_white_are_seen(page):
    with open(CT, "rb") as file:
        data = file.read()
    upload(page, data)
    page.get_by_alt_text("The uploaded image").wait_for()
    window = page.get_by_label("Window")
    window.click()
    names = page.get_by_role("option").all_inner_texts()
    assert [re.sub(r"^\W*", "", name).strip() for name in names] == [OWN, *CT_WINDOWS, *PERCENTILE_WINDOWS]
    page.get_by_role("option", name="Bone").click()
    bone = ImageOps.invert(open_image(ImageBytes(data), window=CT_WINDOWS["Bone"]))
    page.get_by_label("Inverted").check()
    for _ in range(200):
        picture = np.asarray(shown(page).resize(bone.size)).astype(float)
        if np.abs(picture - np.asarray(bone)).mean() < 6:
            break
        page.wait_for_timeout(100)
    assert np.abs(picture - np.asarray(bone)).mean() < 6
    assert np.abs(picture - np.asarray(open_image(ImageBytes(data)))).mean() > 20


def test_two_clicks_make_a_region_that_is_asked_about_and_forgotten(page, image):
    upload(page, image.read_bytes())
    picture = page.get_by_alt_text("The uploaded image")
    picture.wait_for()
    box = picture.bounding_box()
    for share, said in ((0.75, "One corner of a region is chosen."), (0.25, "Region: ")):
        side = min(box["width"], box["height"])  # the image is square and in the middle
        at = {"x": box["width"] / 2 + (share - 0.5) * side, "y": box["height"] / 2 + (share - 0.5) * side}
        picture.click(position=at)
        page.get_by_text(said).wait_for()
    said = page.get_by_text("Region: ").inner_text()
    edges = [float(number) for number in re.findall(r"[\d.]+", said.rstrip("."))]
    assert edges == pytest.approx([25, 75, 25, 75], abs=2)
    page.get_by_label("Question").fill(QUESTION)
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_text("Answer about the region alone").wait_for()
    assert page.get_by_test_id("label-output-value").count() == 2
    page.get_by_role("button", name="Forget the region").click()
    page.get_by_text("Region: ").wait_for(state="hidden")
    assert not page.get_by_text("Answer about the region alone").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_region_is_given_by_keyboard(page, image):
    upload(page, image.read_bytes())
    page.get_by_alt_text("The uploaded image").wait_for()
    page.get_by_role("button", name="A region of the image").press("Enter")
    for name, edge in (("Left edge, %", 10), ("Top edge, %", 20), ("Right edge, %", 60), ("Bottom edge, %", 70)):
        page.get_by_label(name).fill(str(edge))
    page.get_by_text("Region: 10 to 60 % across, 20 to 70 % down.").wait_for()


def test_changes_of_the_view_are_bounded_and_no_questions(app, url, monkeypatch):
    monkeypatch.setattr(gradio_app, "VIEWS", Limit(2, 60, "More than 2 changes"))
    monkeypatch.setattr(gradio_app, "QUESTIONS", Limit(1, 60, "More than 1 question"))
    path = httpx.post(f"{url}/gradio_api/upload", files={"files": stack(20, 90)}).json()[0]
    number = next(entry["id"] for entry in app.config["dependencies"] if entry["api_name"] == "show_view")
    told = []
    for session in "abc":
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        body = {"data": [file, 1, OWN, False, *[None] * 4], "fn_index": number, "session_hash": session}
        assert httpx.post(f"{url}/gradio_api/queue/join", json=body).status_code == 200
        told.append(httpx.get(f"{url}/gradio_api/queue/data", params={"session_hash": session}, timeout=60).text)
    assert ["image.webp" in text for text in told] == [True, True, False]
    assert "More than 2 changes; try again in" in told[2]
