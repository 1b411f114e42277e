"""modeling.predictor: every kind of model answers as in its evaluation, from a folder, the Hub or its cache."""

import csv
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pydicom.data
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from modeling.asking import predictor as module
from modeling.asking.command_line import main
from modeling.asking.predictor import Answer, Predictor
from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.images import ImageError
from tests.conftest import RUNS
from tests.support.tiny_blip2 import tiny_blip2

pytestmark = pytest.mark.xdist_group("predictor")  # one worker trains the models

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def dataset(phantoms):
    return load_vqa_dataset(str(phantoms))


@pytest.fixture
def vilt(runs):
    return Predictor.from_pretrained(runs("vilt"), dtype="float32")


@pytest.fixture
def starter(runs):
    return Predictor.from_pretrained(runs("starter"), dtype=torch.float32)


@pytest.fixture(scope="module")
def images(dataset):
    return list(dict.fromkeys(dataset["train"]["image"]))


def by_hub(hub, folder: Path, name: str = "user/model") -> str:
    hub.repos[f"models/{name}"] = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    return name


# The answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vilt", "starter", "opt", "llama", "llama/merged", "t5"])
def test_answers_equal_those_of_the_evaluation(runs, dataset, name):
    run, _, part = name.partition("/")
    lines = (runs(run) / "predictions_validation.jsonl").read_text().splitlines()
    expected = [json.loads(line) for line in lines]
    assert len({line["confidence"] for line in expected}) > 10
    rows = dataset["validation"]
    predictor = Predictor.from_pretrained(runs(run) / part, dtype="float32" if "--fp16" in RUNS[run] else None)
    answers = predictor.answer_batch(list(rows["image"]), list(rows["question"]), top_k=1)
    assert [answer.answer for answer in answers] == [line["prediction"] for line in expected]
    confidences = [line["confidence"] for line in expected]
    exact = 1e-4 if run != "starter" else 0.02  # in bf16, after features that round as their batch makes them
    assert [answer.confidence for answer in answers] == pytest.approx(confidences, rel=exact, abs=1e-6)
    assert not any(answer.alternatives or answer.question_cut for answer in answers)


@pytest.mark.parametrize("name", ["vilt", "starter", "opt", "llama", "t5"])
def test_alternatives_are_other_answers_in_their_order(runs, dataset, name):
    predictor = Predictor.from_pretrained(runs(name), dtype="float32")
    rows = dataset["validation"][:6]
    for answer in predictor.answer_batch(rows["image"], rows["question"], top_k=4):
        confidences = [other.confidence for other in answer.alternatives]
        assert len({answer.answer, *(other.answer for other in answer.alternatives)}) == 1 + len(confidences) <= 4
        assert confidences == sorted(confidences, reverse=True)
        assert all(0 < confidence <= 1 for confidence in confidences)
        if name in ("vilt", "starter", "llama"):
            assert len(confidences) == 3
            assert answer.confidence >= confidences[0]
    alone = predictor.answer(rows["image"][0], rows["question"][0], top_k=1)
    assert (alone.answer, alone.alternatives) == (predictor.answer(rows["image"][0], rows["question"][0]).answer, ())


@pytest.mark.parametrize(("name", "kinds"), [("vilt", "sigmoid"), ("starter", "softmax")])
def test_confidences_are_probabilities_of_the_models_loss(runs, images, name, kinds):
    predictor = Predictor.from_pretrained(runs(name))
    answer = predictor.answer(images[0], "Is this a CT scan?", top_k=10_000)
    total = answer.confidence + sum(other.confidence for other in answer.alternatives)
    assert len(answer.alternatives) == predictor.model.config.num_labels - 1
    assert (total == pytest.approx(1, abs=1e-4)) == (kinds == "softmax")


def test_one_question_gets_the_answer_it_gets_among_many(starter, dataset):
    rows = dataset["validation"][:20]
    together = starter.answer_batch(rows["image"], rows["question"])
    alone = [starter.answer(*pair) for pair in zip(rows["image"], rows["question"], strict=True)]
    assert [answer.answer for answer in together] == [answer.answer for answer in alone]
    assert [a.confidence for a in together] == pytest.approx([a.confidence for a in alone], rel=1e-3)


def test_more_questions_than_a_batch_are_answered_in_their_order(vilt, dataset, monkeypatch):
    rows = dataset["validation"][:20]
    whole = vilt.answer_batch(rows["image"], rows["question"], top_k=1)
    monkeypatch.setattr(module, "BATCH_SIZE", 3)
    parts = vilt.answer_batch(rows["image"], rows["question"], top_k=1)
    assert [answer.answer for answer in parts] == [answer.answer for answer in whole]


# Images --------------------------------------------------------------------------------------------------------------


def test_every_form_of_an_image_gets_the_same_answer(vilt, images):
    path, question = images[0], "Which organ is shown?"
    expected = vilt.answer(path, question)
    vilt._kept.clear()
    with open(path, "rb") as file:
        forms = [Path(path), Path(path).read_bytes(), file, Image.open(path), io.BytesIO(Path(path).read_bytes())]
        for form in forms:
            assert vilt.answer(form, question) == expected
            vilt._kept.clear()
    with open(path, "rb") as file:  # can be read only once
        assert [answer.answer for answer in vilt.answer_batch(file, [question] * 2)] == [expected.answer] * 2


def test_dicom_and_grey_images_are_answered(starter):
    assert starter.answer(pydicom.data.get_testdata_file("CT_small.dcm"), "Is this a CT scan?").answer
    assert starter.answer(Image.new("L", (30, 50), 128), "Is this a CT scan?").answer


def test_pil_images_of_the_same_bytes_and_another_shape_are_told_apart(starter):
    wide = Image.effect_noise((64, 64), 90)
    tall = Image.frombytes("L", (32, 128), wide.tobytes())
    first = starter.answer(wide, "Where is the lesion?")
    assert starter.answer(tall, "Where is the lesion?").confidence != first.confidence


@pytest.fixture(params=["starter", "opt"])
def watched(request, runs):
    """A predictor and the sizes of the batches that its vision network sees."""
    predictor = Predictor.from_pretrained(runs(request.param), dtype="float32")
    network = predictor.vision if request.param == "opt" else predictor.model.vision
    seen = []
    network.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    return predictor, seen


def test_an_image_is_seen_once_for_all_its_questions(watched, images):
    predictor, seen = watched
    questions = ["Is this a CT scan?", "Which organ is shown?", "Where is the lesion?"]
    first = predictor.answer_batch(images[0], questions)
    assert seen == [1]
    assert predictor.answer(Path(images[0]).read_bytes(), questions[1]).answer == first[1].answer
    assert seen == [1]
    predictor.answer_batch([images[0], images[1], images[2], images[1]], [*questions, questions[0]])
    assert seen == [1, 2]


def test_only_a_few_images_are_kept(watched, images):
    predictor, seen = watched
    for image in images[: module.KEPT_IMAGES + 1]:
        predictor.answer(images[0], "Is this a CT scan?")  # used again and again
        predictor.answer(image, "Is this a CT scan?")
    assert len(predictor._kept) == module.KEPT_IMAGES
    seen.clear()
    predictor.answer(images[0], "Is this a CT scan?")
    assert seen == []
    predictor.answer(images[1], "Is this a CT scan?")  # the least recently used
    assert seen == [1]


@pytest.mark.parametrize("name", ["vilt", "starter", "llama"])
def test_threads_never_mix_up_images(runs, images, monkeypatch, name):
    monkeypatch.setattr(module, "KEPT_IMAGES", 2)  # images come and go all the time
    predictor = Predictor.from_pretrained(runs(name), dtype="float32")
    questions = ["Is this a CT scan?", "Which organ is shown in this image, if any?", "Is this a CT scan? " * 30]
    asked = [(image, question) for question in questions for image in images[:4]]
    expected = dict(zip(asked, (predictor.answer(*pair, top_k=2) for pair in asked), strict=True))
    assert len({answer.confidence for answer in expected.values()}) > 6
    inside, together = [], []

    def enter(*_):
        inside.append(1)
        together.append(len(inside))
        time.sleep(1e-3)

    def leave(*_):
        inside.pop()

    embeddings = predictor.model.get_input_embeddings()
    embeddings.register_forward_pre_hook(enter)
    embeddings.register_forward_hook(leave)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda pair: predictor.answer(*pair, top_k=2), asked * 3))
    assert set(together) == {1}  # the model works for one thread at a time
    for pair, answer in zip(asked * 3, answers, strict=True):
        right = expected[pair]
        assert (answer.answer, answer.question_cut) == (right.answer, right.question_cut)
        assert answer.confidence == pytest.approx(right.confidence, rel=1e-4)


# Questions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vilt", "opt", "t5"])
def test_long_question_is_cut_and_told(runs, images, caplog, name):
    predictor = Predictor.from_pretrained(runs(name), dtype="float32")
    short, long = "Is this a CT scan?", "脑" * 990  # three bytes each, a token each
    answers = predictor.answer_batch(images[0], [short, long], top_k=1)
    assert [answer.question_cut for answer in answers] == [False, True]
    assert "1 questions are longer than the model reads" in caplog.text
    assert predictor.answer(images[0], long + "And more?", top_k=1).confidence == pytest.approx(answers[1].confidence)


@pytest.mark.parametrize("question", ["", " \n", None])
def test_empty_question_is_refused(vilt, images, question):
    with pytest.raises(UserError, match="The question is empty"):
        vilt.answer(images[0], question)


def test_endless_question_is_refused(vilt, images):
    with pytest.raises(UserError, match="The question has 1,001 characters; ask in at most 1,000"):
        vilt.answer(images[0], "x" * 1_001)


def test_odd_characters_in_a_question_do_no_harm(vilt, images):
    assert vilt.answer(images[0], "Is \ud800 this\x00 {} a CT?\n").answer is not None


# From the Hub --------------------------------------------------------------------------------------------------------


def test_private_repo_needs_a_token_and_revisions_are_kept_apart(runs, hub, images, monkeypatch):
    name = by_hub(hub, runs("vilt"))
    first = hub.commit_of(f"models/{name}")
    config = json.loads(hub.repos[f"models/{name}"]["config.json"])
    config["id2label"] = {number: f"new {label}" for number, label in config["id2label"].items()}
    config["label2id"] = {label: int(number) for number, label in config["id2label"].items()}
    hub.repos[f"models/{name}"]["config.json"] = json.dumps(config).encode()
    hub.private.add(f"models/{name}")
    with pytest.raises(UserError, match=r"user/model: the Hub has no such model, or it is private; .*hf auth login"):
        Predictor.from_pretrained(name)
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    old, new = (
        Predictor.from_pretrained(name, revision=revision).answer(images[0], "CT?") for revision in (first, None)
    )
    assert new.answer == f"new {old.answer}"
    with pytest.raises(UserError, match="user/model: it has no revision v9"):
        Predictor.from_pretrained(name, revision="v9")


def test_only_what_the_model_needs_is_downloaded(runs, hub):
    name = by_hub(hub, runs("vilt"), "user/large")
    extra = ("pytorch_model.bin", "loss.png", "onnx/model.safetensors", "checkpoint-1/config.json")
    hub.repos[f"models/{name}"] |= dict.fromkeys(extra, b"{}")
    Predictor.from_pretrained(name)
    fetched = [request.split("/resolve/")[1] for request in hub.requests if "/resolve/" in request]
    assert fetched
    assert not [path for path in fetched if path.partition("/")[2] in extra]


@pytest.fixture
def adapter_of_the_hub(runs, dataset, hub, tmp_path):
    """An adapter whose base is an older revision of a repo that holds another model now."""
    base = json.loads((runs("opt") / "adapter_config.json").read_text())["base_model_name_or_path"]
    by_hub(hub, Path(base), "user/base")
    commit = hub.commit_of("models/user/base")
    by_hub(hub, tiny_blip2("llama", dataset, tmp_path / "other"), "user/base")  # main holds another model now
    name = by_hub(hub, runs("opt"), "user/adapter")
    config = json.loads(hub.repos["models/user/adapter"]["adapter_config.json"])
    config |= {"base_model_name_or_path": "user/base", "revision": commit}
    hub.repos["models/user/adapter"]["adapter_config.json"] = json.dumps(config).encode()
    return name


def test_adapter_fetches_its_base_and_offline_all_comes_from_the_cache(runs, hub, images, adapter_of_the_hub):
    questions = ["Is this CT?", "Which organ is shown?"]
    expected = Predictor.from_pretrained(runs("opt")).answer_batch(images[0], questions, top_k=2)
    assert Predictor.from_pretrained(adapter_of_the_hub).answer_batch(images[0], questions, top_k=2) == expected
    before = len(hub.requests)
    command = [sys.executable, "-m", "modeling.predictor", adapter_of_the_hub, "--image", images[0], "--top_k", "2"]
    command += ["--json", "--question", questions[0], "--question", questions[1]]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=offline, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = [{"question": q, **asdict(answer)} for q, answer in zip(questions, expected, strict=True)]
    assert json.loads(done.stdout) == json.loads(json.dumps(answers))
    assert len(hub.requests) == before


def test_error_of_the_command_line_is_one_line(hub, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(sys, "argv", ["predictor", "user/unknown", "--image", "x.png", "--question", "CT?"])
    with pytest.raises(SystemExit, match="^1$"):
        runpy.run_module("modeling.predictor", run_name="__main__")
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: user/unknown: not in the cache, and the Hub can't be reached (")
    assert hub.requests == []


# Refused models ------------------------------------------------------------------------------------------------------


def without_safetensors(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors", "merged"))
    for name in ("pytorch_model.bin", "adapter_model.bin"):
        torch.save({}, target / name)
    return target


@pytest.mark.parametrize("name", ["vilt", "opt"])
@pytest.mark.parametrize("place", ["folder", "hub"])
def test_pickled_weights_are_refused_unread(runs, hub, tmp_path, monkeypatch, name, place):
    folder = without_safetensors(runs(name), tmp_path / "pickled")
    model = by_hub(hub, folder) if place == "hub" else folder
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(UserError, match=r"no weights as safetensors, and pickled ones \(.bin, .pt\) are not loaded"):
        Predictor.from_pretrained(model)
    assert not [request for request in hub.requests if ".bin" in request]


def test_another_kind_of_model_is_named(tmp_path):
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="a bert model; choose a ViLT, a starter or a BLIP-2"):
        Predictor.from_pretrained(tmp_path)


def test_folder_without_a_model_and_missing_ones_are_told(tmp_path, hub):
    with pytest.raises(UserError, match=r"there is no model \(no config.json\)"):
        Predictor.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="there is no such folder, and it is no Hub id"):
        Predictor.from_pretrained(tmp_path / "gone")
    with pytest.raises(UserError, match="user/gone: the Hub has no such model"):
        Predictor.from_pretrained("user/gone")
    hub.repos["models/user/empty"] = {"README.md": b"# soon"}
    with pytest.raises(UserError, match="user/empty: there is no model"):
        Predictor.from_pretrained("user/empty")
    with pytest.raises(UserError, match="a folder has no revision v1"):
        Predictor.from_pretrained(tmp_path, revision="v1")


def test_gated_model_and_hub_trouble_are_told(runs, hub):
    name = by_hub(hub, runs("vilt"), "user/gated")
    hub.fail("GET", "user/gated", status=403, headers={"X-Error-Code": "GatedRepo"})
    with pytest.raises(UserError, match="user/gated: the model is gated; ask for access"):
        Predictor.from_pretrained(name)
    for trouble in ({"status": 500}, {"drop": True}):
        for request in ("/api/models/user/gated", "/storage/.*user/gated"):
            hub.fail("GET", request, times=99, **trouble)
            with pytest.raises(UserError, match="user/gated: not in the cache, and the Hub can't be reached"):
                Predictor.from_pretrained(name)
            hub.reset()
            by_hub(hub, runs("vilt"), name)


def test_model_that_was_not_fine_tuned_is_told(runs, tmp_path):
    shutil.copytree(runs("vilt"), tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("classifier.")}
    save_file(kept, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="it has no trained answers"):
        Predictor.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_damaged_model_is_one_sentence(runs, tmp_path, file):
    shutil.copytree(runs("vilt"), tmp_path / "m")
    (tmp_path / "m" / file).write_bytes(b"{torn")
    with pytest.raises(UserError, match=r"damaged; save or download|can't be loaded as a folder") as error:
        Predictor.from_pretrained(tmp_path / "m")
    assert "\n" not in str(error.value)


def test_code_that_a_model_brings_is_not_run(runs, tmp_path, monkeypatch):
    shutil.copytree(runs("starter"), tmp_path / "m")
    config = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "m" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda _: "y")
    with pytest.raises(UserError, match="can't be loaded as a folder"):
        Predictor.from_pretrained(tmp_path / "m")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"{torn", b"[]", b'{"prompt": "no place"}', b'{"num_beams": "x"}', b'{"x": 1}'])
def test_damaged_answering_file_is_told(runs, tmp_path, content):
    shutil.copytree(runs("opt"), tmp_path / "m")
    (tmp_path / "m" / "answering.json").write_bytes(content)
    with pytest.raises(UserError, match="answering.json: it does not say how to ask the model"):
        Predictor.from_pretrained(tmp_path / "m")


def test_stock_blip2_is_asked_as_its_paper_does(runs, images, tmp_path):
    shutil.copytree(runs("llama") / "merged", tmp_path / "m", ignore=shutil.ignore_patterns("answering.json"))
    predictor = Predictor.from_pretrained(tmp_path / "m")
    assert predictor.answering.prompt == "Question: {} Answer:"
    assert predictor.answer(images[0], "Is this a CT scan?").confidence > 0


@pytest.mark.parametrize("name", ["vilt", "opt"])
def test_precisions_agree_and_are_used(runs, images, name):
    answers = [
        Predictor.from_pretrained(runs(name), dtype=dtype).answer(images[0], "Is this a CT scan?", top_k=1)
        for dtype in ("float32", torch.bfloat16, "float16")
    ]
    confidences = [answer.confidence for answer in answers]
    assert len(set(confidences)) == 3
    assert confidences == pytest.approx([confidences[0]] * 3, rel=0.05)


def test_torch_with_cuda_on_a_machine_without_a_gpu_answers_on_the_cpu(runs, images, monkeypatch):
    built_for = torch.device("cuda")
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available=False: None if check_available else built_for
    )
    predictor = Predictor.from_pretrained(runs("vilt"))
    assert predictor.device.type == "cpu"
    assert predictor.answer(images[0], "Is this a CT scan?").answer


def test_unknown_device_and_dtype_are_told(runs):
    with pytest.raises(UserError, match="device cuda:7: there is none here"):
        Predictor.from_pretrained(runs("vilt"), device="cuda:7")
    with pytest.raises(UserError, match="dtype int8: unknown; choose float32"):
        Predictor.from_pretrained(runs("vilt"), dtype="int8")


def test_wrong_arguments_are_told(vilt, images):
    with pytest.raises(UserError, match="2 images for 1 questions"):
        vilt.answer_batch(images[:2], ["CT?"])
    with pytest.raises(UserError, match="top_k 0: must be at least 1"):
        vilt.answer(images[0], "CT?", top_k=0)
    with pytest.raises(ImageError, match="gone.png.*it does not exist"):
        vilt.answer("gone.png", "CT?")
    assert vilt.answer_batch(images[0], []) == []


# The command line ----------------------------------------------------------------------------------------------------


def test_command_line_prints_answers_and_alternatives(runs, images, capsys):
    main([str(runs("vilt")), "--image", images[0], "--question", "Is this a CT scan?", "--top_k", "3"])
    lines = capsys.readouterr().out.splitlines()
    answer = Predictor.from_pretrained(runs("vilt")).answer(images[0], "Is this a CT scan?", top_k=3)
    assert lines[0] == f"{answer.answer}  (confidence {round(answer.confidence * 100)} %)"
    assert [line.strip().split("  ")[0] for line in lines[1:]] == [other.answer for other in answer.alternatives]


def test_table_is_answered_and_bad_rows_say_why(runs, images, vilt, tmp_path, capsys):
    for number in range(2):
        shutil.copy(images[number], tmp_path / f"{number}.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    asked = [
        ("0.jpg", "Is this a CT scan?", "a, b"),
        ("gone.jpg", "Is this a CT scan?", ""),
        ("../" + tmp_path.name + "/../secret.jpg", "Is this a CT scan?", ""),
        ("1.jpg", "Which organ is shown?", ""),
        ("bad.jpg", "Which organ is shown?", ""),
        ("", "Which organ is shown?", ""),
        ("0.jpg", " ", ""),
        ("0.jpg", "Which organ is shown?", "é"),
    ]
    with open(tmp_path / "in.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "question", "note"), *asked])
    out = tmp_path / "new" / "out.csv"
    main([str(runs("vilt")), "--csv", str(tmp_path / "in.csv"), "--out", str(out), "--dtype", "float32"])
    assert "5 rows have an error" in capsys.readouterr().out
    with open(out, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "question", "note", "prediction", "confidence", "error"]
    assert [(row["image"], row["question"], row["note"]) for row in rows] == asked
    errors = [row["error"] for row in rows]
    expected = [
        "",
        "does not exist",
        "leaves the folder",
        "",
        "not a known image",
        "is empty",
        "question is empty",
        "",
    ]
    for error, part in zip(errors, expected, strict=True):
        assert part in error if part else error == ""
    for index in (0, 3, 7):
        answer = vilt.answer(tmp_path / rows[index]["image"], rows[index]["question"])
        assert rows[index]["prediction"] == answer.answer
        assert float(rows[index]["confidence"]) == pytest.approx(answer.confidence, abs=1e-4)
    assert not [path for path in out.parent.iterdir() if path != out]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,text\na.png,b\n", "there is no column question"),
        ("", "there is no column image"),
        ("image,question,prediction\na.png,b,c\n", "its column prediction is one of those to be written"),
        ("image,question\na.png\n", "1 fields where the header has 2"),
    ],
)
def test_table_that_can_not_be_read_is_told(runs, tmp_path, content, message):
    (tmp_path / "in.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        main([str(runs("vilt")), "--csv", str(tmp_path / "in.csv"), "--out", str(tmp_path / "out.csv")])
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    "flags", [[], ["--image", "x"], ["--csv", "x"], ["--question", "x", "--csv", "a", "--out", "b"]]
)
def test_incomplete_command_line_shows_what_to_give(flags, capsys):
    with pytest.raises(SystemExit):
        main(["model", *flags])
    assert "give --image and --question, or --csv and --out" in capsys.readouterr().err


def test_answer_is_a_plain_value():
    assert Answer("Yes", 0.5) == Answer("Yes", 0.5, (), False)
