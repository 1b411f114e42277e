"""benchmarks.app_client: users without a browser see what the app's page shows."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.app_client import visit
from modeling.predictor import Predictor
from tests.support.app_server import serve_app

QUESTIONS = ["What modality is used to take this image?", "Is 1 < 2 & 3?", "Which part of the body is this?"]


@pytest.fixture(scope="module")
def address(trained, tmp_path_factory):
    with serve_app(tmp_path_factory.mktemp("app") / "log", str(trained)) as address:
        yield address


async def visits(address, images):
    ready, begin = asyncio.Barrier(len(images)), asyncio.Event()
    begin.set()
    users = (visit(address, number, image, QUESTIONS, ready, begin) for number, image in enumerate(images))
    return await asyncio.gather(*users)


def test_users_at_once_see_the_models_own_answers_about_their_images(trained, phantoms, address):
    images = sorted((phantoms / "imgs").glob("*/source.jpg"))[:3]
    predictor = Predictor.from_pretrained(trained)
    with ThreadPoolExecutor() as other_thread:  # the browser of other tests leaves a loop of events in this one
        seen = other_thread.submit(asyncio.run, visits(address, images)).result()
    for image, one in zip(images, seen, strict=True):
        assert one.answers == [answer.answer for answer in predictor.answer_batch(str(image), QUESTIONS)]
        assert len(one.seconds) == len(QUESTIONS)
        assert all(seconds > 0 for seconds in one.seconds)
        assert one.received.bytes > 1_000
        assert len(one.received.images) == len(set(one.received.images))
