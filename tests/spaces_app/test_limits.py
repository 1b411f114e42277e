"""spaces_app.limits: how much of an app a visitor may have, alone and in both apps."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from streamlit.testing.v1 import AppTest

from modeling.predictor import Predictor
from processing.errors import UserError
from spaces_app import answers, batch_page, gradio_app, limits, models, uploads
from spaces_app.limits import BATCHES, QUESTIONS, SLOTS, Limit, Limiter, LimitError, client_address, trusted_proxies
from tests.support.app_server import ROOT

pytestmark = pytest.mark.xdist_group("apps")
QUESTION = "Is this a CT scan?"
TWO = replace(QUESTIONS, amount=2)
REFUSED = "More than 30 questions a minute; try again in"


@pytest.fixture
def clock(monkeypatch):
    """A function that sets the time, in seconds."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, seconds)


# Counting ------------------------------------------------------------------------------------------------------------


def test_what_was_taken_is_forgotten_after_its_time(clock):
    limiter, limit = Limiter(), Limit(10, 60, "More than 10 a minute")  # forgotten in parts of two seconds
    clock(1000.0)
    limiter.take("a", limit, 4)
    clock(1051.0)
    limiter.take("a", limit, 6)
    clock(1052.5)
    with pytest.raises(LimitError, match="^More than 10 a minute; try again in 10 seconds.$"):
        limiter.take("a", limit)
    with pytest.raises(LimitError, match="; try again in 60 seconds.$"):
        limiter.take("a", limit, 5)
    clock(1061.9)
    with pytest.raises(LimitError, match="; try again in 1 second.$"):
        limiter.take("a", limit, 4)
    clock(1062.0)
    limiter.take("a", limit, 4)
    with pytest.raises(LimitError, match="^More than 10 a minute; send less at once.$"):
        limiter.take("a", limit, 11)


def test_the_seconds_are_those_after_which_it_goes_on(clock):
    limiter = Limiter()
    for step in range(300):
        clock(now := 1000 + 0.77 * step)
        try:
            limiter.take("a", QUESTIONS, 2)
        except LimitError as error:
            seconds = int(str(error).split()[-2])
            clock(now + seconds - 1)
            with pytest.raises(LimitError):
                limiter.take("a", QUESTIONS, 2)
            clock(now + seconds)
            limiter.take("a", QUESTIONS, 2)
            return
    raise AssertionError("no limit was reached")


def test_never_more_than_the_amount_in_any_minute(clock):
    limiter, taken = Limiter(), []
    for step in range(3000):
        clock(now := 0.1 * step)
        try:
            limiter.take("a", QUESTIONS)
        except LimitError:
            continue
        taken.append(now)
    assert len(taken) > 120
    assert max(sum(start <= time < start + 60 for time in taken) for start in taken) == 30


def test_addresses_and_kinds_are_counted_apart():
    limiter = Limiter()
    for address, limit in itertools.product("ab", (QUESTIONS, BATCHES)):
        limiter.take(address, limit, limit.amount)
    with pytest.raises(LimitError):
        limiter.take("a", QUESTIONS)


def test_memory_is_bounded_in_addresses_and_in_what_is_known_of_each(clock, monkeypatch):
    monkeypatch.setattr(limits, "ADDRESSES", 100)
    limiter = Limiter()
    counted = 0
    for step in range(5_000):  # of 250 seconds
        clock(0.05 * step)
        limiter.take("busy", limits.UPLOADS, 1)
        with suppress(LimitError):
            limiter.take(f"{step}", QUESTIONS)
            counted += 1
    assert counted == 440  # a hundred each 62 seconds
    assert len(limiter._taken[QUESTIONS]) == 100
    assert len(limiter._taken[limits.UPLOADS]["busy"]) <= SLOTS + 1
    assert sum(taken for _, taken in limiter._taken[limits.UPLOADS]["busy"]) == 5_000


def test_no_number_of_other_addresses_makes_the_limiter_forget_one(clock):
    limiter, limit = Limiter(), Limit(30, 60, "More than 30 a minute")
    clock(1001.0)
    limiter.take("me", limit, 30)
    clock(1031.0)
    for number in range(limits.ADDRESSES - 1):
        limiter.take(f"{number}", limit)
    with pytest.raises(LimitError, match="^More visitors than the app can count; try again in 31 seconds.$"):
        limiter.take("one more", limit)
    limiter.take("1", limit)  # who is counted goes on
    with pytest.raises(LimitError, match="^More than 30 a minute; try again in 31 seconds.$"):
        limiter.take("me", limit)
    clock(1062.0)
    limiter.take("one more", limit)  # the place of the first, which had not come back
    limiter.take("another", QUESTIONS)  # each limit has places of its own
    with pytest.raises(LimitError, match="; try again in 30 seconds.$"):
        limiter.take("me", limit)


def test_threads_together_take_no_more_than_there_is():
    limiter, limit = Limiter(), Limit(300, 3600, "More than 300 an hour")

    def take(_: int) -> bool:
        try:
            limiter.take("a", limit)
        except LimitError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(800))) == 300


# Who asks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proxies", "peer", "header", "address"),
    [
        ("", "203.0.113.9", [], "203.0.113.9"),
        ("1", "203.0.113.9", [], "203.0.113.9"),  # came around the proxy
        ("", "203.0.113.9", ["198.51.100.1"], "forwarded"),  # nobody vouches for it
        ("0", "203.0.113.9", ["198.51.100.1"], "forwarded"),
        ("1", "10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("1", "10.0.0.1", ["6.6.6.6, 198.51.100.1"], "198.51.100.1"),
        ("1", "10.0.0.1", ["6.6.6.6", "198.51.100.1"], "198.51.100.1"),
        ("2", "10.0.0.1", ["6.6.6.6, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("2", "10.0.0.1", ["198.51.100.1"], "forwarded"),  # only one proxy has been passed
        ("1", "10.0.0.1", ["198.51.100.1, nonsense"], "forwarded"),
        ("1", "10.0.0.1", ["2001:db8:1:2:3:4:5:6"], "2001:db8:1::/48"),
        ("", "::ffff:203.0.113.9", [], "203.0.113.9"),
        ("", None, [], "forwarded"),
    ],
)
def test_a_client_is_told_by_what_trusted_proxies_say(monkeypatch, proxies, peer, header, address):
    monkeypatch.setenv("TRUSTED_PROXIES", proxies)
    assert client_address(peer, header) == address


@pytest.mark.parametrize("value", ["-1", "one", "1.0", "²"])
def test_a_wrong_number_of_proxies_is_one_sentence(monkeypatch, value):
    monkeypatch.setenv("TRUSTED_PROXIES", value)
    with pytest.raises(UserError, match=r"^TRUSTED_PROXIES '.*': must be a whole number, 0 without a proxy\.$"):
        trusted_proxies()


# The Gradio app ------------------------------------------------------------------------------------------------------


@pytest.fixture
def url(trained, monkeypatch):
    """The address of a server that nobody has asked yet."""
    for module in (gradio_app, uploads):
        monkeypatch.setattr(module, "LIMITER", Limiter())
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    page, url = gradio_app.launch(
        Predictor.from_pretrained(trained), server_name="127.0.0.1", prevent_thread_lock=True, quiet=True
    )
    yield url.rstrip("/")
    page.close()


def call(url: str, path: str, headers: dict[str, str]) -> str:
    """What the API answers to one question, by plain HTTP without a session: its event and what stands in it."""
    data = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, QUESTION]}
    called = httpx.post(f"{url}/gradio_api/call/answer", json=data, headers=headers)
    if called.status_code != 200:
        return called.text
    return httpx.get(f"{url}/gradio_api/call/answer/{called.json()['event_id']}", headers=headers).text


def send(url: str, image, headers: dict[str, str] | None = None) -> str:
    return httpx.post(f"{url}/gradio_api/upload", files={"files": image.read_bytes()}, headers=headers).json()[0]


def test_forty_calls_without_a_session_get_thirty_answers_whatever_they_say_of_themselves(url, phantoms):
    path = send(url, phantoms / "imgs" / "xmlab1" / "source.jpg")
    for headers in ({}, {"X-Forwarded-For": "198.51.100.{}"}):  # the second with another address for each call
        told = [call(url, path, {key: text.format(n) for key, text in headers.items()}) for n in range(40)]
        assert ["event: complete" in text for text in told] == [True] * 30 + [False] * 10
        assert all(REFUSED in text for text in told[30:])


def test_behind_a_trusted_proxy_each_visitor_is_counted(url, phantoms, monkeypatch):
    monkeypatch.setenv("TRUSTED_PROXIES", "1")
    monkeypatch.setattr(gradio_app, "QUESTIONS", TWO)
    path = send(url, phantoms / "imgs" / "xmlab1" / "source.jpg")
    answered = [
        "event: complete" in call(url, path, {"X-Forwarded-For": f"6.6.6.{n}, 198.51.100.{visitor}"})
        for visitor in (1, 2)
        for n in range(3)
    ]
    assert answered == [True, True, False] * 2


def test_a_visitor_is_still_counted_after_many_others(url, phantoms, monkeypatch):
    monkeypatch.setenv("TRUSTED_PROXIES", "1")
    monkeypatch.setattr(limits, "ADDRESSES", 5)
    monkeypatch.setattr(gradio_app, "QUESTIONS", TWO)
    path = send(url, phantoms / "imgs" / "xmlab1" / "source.jpg", {"X-Forwarded-For": "2001:db8::1"})
    told = [
        call(url, path, {"X-Forwarded-For": visitor})
        for visitor in ("2001:db8::1", *(f"2001:db8::{n}:0:0:0:1" for n in range(3)), "2001:db8::1")
    ]
    assert ["event: complete" in text for text in told] == [True, True, False, False, False]  # a /48 is one visitor
    told = [call(url, path, {"X-Forwarded-For": f"198.51.100.{n}"}) for n in range(6)]
    assert ["event: complete" in text for text in told] == [True] * 4 + [False] * 2
    assert "More visitors than the app can count; try again in" in told[-1]
    assert REFUSED in call(url, path, {"X-Forwarded-For": "2001:db8::1"})


def test_new_sessions_of_the_gradio_app_are_one_visitor(url, phantoms, monkeypatch):
    monkeypatch.setattr(gradio_app, "QUESTIONS", TWO)
    image = handle_file(phantoms / "imgs" / "xmlab1" / "source.jpg")
    for _ in range(2):
        Client(url, verbose=False).predict(image, QUESTION, api_name="/answer")
    with pytest.raises(AppError, match=rf"^{REFUSED} \d+ seconds?\.$"):
        Client(url, verbose=False).predict(image, QUESTION, api_name="/answer")


# The Streamlit app ---------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch, trained):
    """What visitors have asked the models for: the amounts of each kind."""
    monkeypatch.setenv("MODEL_ID", str(trained))
    monkeypatch.setattr(answers, "LIMITER", Limiter())
    taken = []
    take = Limiter.take

    def note(self, address, limit, amount=1):
        take(self, address, limit, amount)
        taken.append((address, limit, amount))

    monkeypatch.setattr(Limiter, "take", note)
    return taken


def visit() -> AppTest:
    app = AppTest.from_file(str(ROOT / "spaces_app" / "page.py"), default_timeout=120).run()
    app.button_group[0].set_value("Examples").run()
    next(button for button in app.button if button.label == "Chest CT").click().run()  # the first one is the app's own
    assert not app.exception
    return app


def ask(app: AppTest) -> AppTest:
    app.chat_input[0].set_value(QUESTION).run()
    assert not app.exception
    return app


def asked(app: AppTest) -> int:
    return sum(QUESTION in element.body for element in app.get("html") if '"question"' in element.body)


def test_new_visits_to_the_streamlit_app_are_one_visitor(counted, monkeypatch):
    monkeypatch.setattr(answers, "QUESTIONS", replace(QUESTIONS, amount=4))
    first = ask(ask(visit()))  # the suggestions of an image are a question too
    assert asked(first) == 2
    second = ask(ask(visit()))  # it has suggestions, and then there are none left
    assert asked(second) == 0
    assert [w.value for w in second.warning if w.value.startswith(REFUSED)]
    assert second.get("button")  # suggestions that need no model stay
    assert len({address for address, _, _ in counted}) == 1


def test_answers_of_each_model_heat_maps_and_suggestions_count(counted, monkeypatch, trained, tmp_path):
    other = tmp_path / "other"
    other.symlink_to(trained)
    monkeypatch.setenv("COMPARE_MODEL_ID", str(other))
    monkeypatch.setattr(models, "LOADING", models.Loading())
    app = visit()
    assert [amount for _, _, amount in counted] == [1]  # the suggestions
    ask(app)
    assert [amount for _, _, amount in counted] == [1, 2]
    app.radio(key="over-image-4").set_value("What moved the answer").run()
    assert [amount for _, _, amount in counted] == [1, 2, 1]
    app.slider(key="opacity").set_value(20).run()  # the same map once more
    assert [amount for _, _, amount in counted] == [1, 2, 1]
    assert {limit for _, limit, _ in counted} == {QUESTIONS}


def test_a_heat_map_beyond_the_limit_is_not_made(counted, monkeypatch):
    monkeypatch.setattr(answers, "QUESTIONS", TWO)
    app = ask(visit())
    app.radio(key="over-image-4").set_value("What moved the answer").run()
    assert [w.value for w in app.warning if w.value.startswith(REFUSED)]
    assert len(counted) == 2


def test_a_batch_counts_each_of_its_questions(counted, monkeypatch, phantoms):
    monkeypatch.setattr(batch_page, "BATCHES", replace(BATCHES, amount=5))
    app = visit()
    image = (phantoms / "imgs" / "xmlab1" / "source.jpg").read_bytes()
    app.file_uploader(key="batch-image").set_value(("x.jpg", image, "image/jpeg"))
    app.file_uploader(key="batch-csv").set_value(
        ("q.csv", b"question\nIs this a CT?\nWhere?\nWhy?\n", "text/csv")
    ).run()
    start = next(button for button in app.button if button.label == "Answer all")
    start.click().run()
    assert [s.value for s in app.success] == ["3 questions answered."]
    assert counted[-1][1:] == (batch_page.BATCHES, 3)
    next(button for button in app.button if button.label == "Answer all").click().run()
    told = [element.body for element in app.get("html") if "problem" in element.body and "<p" in element.body]
    assert len(told) == 1
    assert "More than 1,000 questions by table or archive in ten minutes; try again in " in told[0]
    assert not app.success
