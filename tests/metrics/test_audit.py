"""metrics.audit: each finding is planted once and found with its exact counts."""

import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from metrics.audit import question_only
from metrics.audit.__main__ import AuditFailed, main
from metrics.audit.question_only import text_only_answers
from metrics.audit.table import question_identity
from metrics.vqa import majority_answers, score_answers
from processing.data import load_vqa_dataset
from processing.errors import UserError, run_command
from processing.neighbours import near_pairs, thumbnail

MARKUP = "Is it <b>big</b>?"


def picture(seed):
    small = np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8)
    return Image.fromarray(small).resize((48, 48), Image.Resampling.BICUBIC).convert("RGB")


def row(image, question, answer, split, answer_type="OPEN", **other):
    facts = {"image": image, "question": question, "answer": answer, "split": split, "answer_type": answer_type}
    return facts | other


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A table with one finding of each kind, or two."""
    folder = tmp_path_factory.mktemp("planted")
    for number in range(12):
        picture(number).save(folder / f"t{number}.png")
    picture(0).save(folder / "same.bmp")  # the pixels of t0 in another file
    ImageEnhance.Contrast(picture(1)).enhance(0.7).save(folder / "near.png")
    for number in (12, 13):
        picture(number).save(folder / f"v{number}.png")
    rows = [row(f"t{number}.png", "Which plane is it?", "axial", "train") for number in range(12)]
    rows += [
        row("t0.png", "Which organ is it?", "liver", "train"),
        row("t2.png", MARKUP, "yes", "train", "CLOSED"),
        row("t2.png", "IS IT <b>big</b>", "No", "train", "CLOSED"),  # contradicts
        row("t3.png", "which plane is it", "Axial.", "train"),  # stands twice
        row("missing.png", "Which organ is it?", "liver", "train"),  # can't be used
        row("t1.png", "", "liver", "train"),  # can't be used
        row("same.bmp", "Which plane is it?", "axial", "validation"),  # stands twice, in two splits
        row("same.bmp", "Which organ is it?", "spleen", "validation"),  # contradicts, in two splits
        row("near.png", "Which plane is it?", "axial", "validation"),
        row("v12.png", "Which plane is it?", "axial", "validation"),
        row("v13.png", "Which plane is it?", "pelvic", "validation"),  # an answer that training never has
    ]
    rows = [entry | {"question_id": f"q{number}"} for number, entry in enumerate(rows, start=1)]
    (folder / "rows.json").write_text(json.dumps(rows))
    return folder / "rows.json"


def audit(data, folder, *flags):
    main([str(data), "--output_dir", str(folder), *flags])
    return json.loads((folder / "audit.json").read_text())


@pytest.fixture(scope="module")
def report(planted, tmp_path_factory):
    return audit(planted, tmp_path_factory.mktemp("audit"))


def test_rows_that_cannot_be_used_are_counted_by_reason_and_named(report):
    assert (report["data"]["rows"], report["data"]["usable_rows"], report["data"]["images"]) == (23, 21, 15)
    bad = report["bad_rows"]
    assert (bad["rows"], bad["of"]) == (2, 23)
    assert list(bad["problems"].values()) == [1, 1]
    assert [entry["where"] for entry in bad["first"]] == ["rows.json row 17", "rows.json row 18"]


def test_the_same_image_in_another_file_and_a_near_one_are_found_across_splits(report):
    [overlap] = report["overlaps"]
    assert overlap["splits"] == ["train", "validation"]
    assert overlap["images"] == {"train": 12, "validation": 4}
    assert overlap["same"] == {"images": 1, "rows": {"train": 2, "validation": 2}}
    assert overlap["near"] == {"images": 1, "rows": 1}
    assert overlap["groups"] == 0
    assert [(pair["kind"], pair["images"][0]) for pair in overlap["pairs"]] == [("same", "t0.png"), ("near", "t1.png")]
    assert overlap["pairs"][1]["images"][1] == "near.png"
    assert 0.95 < overlap["pairs"][1]["correlation"] <= 1
    assert report["seen_in_training"] == {
        "validation": {
            "same": {"rows": 2, "images": 1},
            "near": {"rows": 1, "images": 1},
            "none": {"rows": 2, "images": 2},
        }
    }
    assert report["data"]["groups_of_near_identical_images"] == 14


def test_rows_that_stand_twice_are_found_whatever_their_case_and_marks(report):
    found = report["duplicates"]
    assert (found["rows"], found["across_splits"]) == (2, 1)
    assert [(entry["row"]["where"], entry["same_as"]["where"]) for entry in found["first"]] == [
        ("rows.json row 16", "rows.json row 4"),
        ("rows.json row 19", "rows.json row 1"),
    ]


def test_questions_with_two_answers_are_found_in_one_split_and_across(report):
    found = report["contradictions"]
    counts = {"questions": 2, "closed_questions": 1, "rows": 4, "across_splits": 1}
    assert {name: found[name] for name in counts} == counts
    answers = [[entry["answer"] for entry in group["rows"]] for group in found["first"]]
    assert answers == [["liver", "spleen"], ["yes", "No"]]
    assert [entry["split"] for entry in found["first"][0]["rows"]] == ["train", "validation"]


def test_several_gold_answers_contradict_only_where_none_is_shared(tmp_path):
    for number in range(4):
        picture(number).save(tmp_path / f"{number}.png")
    golds = [["left", "left lung"], ["Left lung.", "lung"], ["right"], ["left"]]
    rows = [{"image": f"{i // 2}.png", "question": "Where?", "answers": gold} for i, gold in enumerate(golds)]
    rows += [{"image": f"{i}.png", "question": "Where?", "answers": ["up"]} for i in (2, 3)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    found = audit(tmp_path / "rows.json", tmp_path / "out")["contradictions"]
    assert [[entry["answer"] for entry in group["rows"]] for group in found["first"]] == [["right", "left"]]


def test_answers_that_training_never_has_are_counted(report):
    unseen = report["unseen_answers"]["validation"]
    assert (unseen["rows"], unseen["of"], unseen["open"], unseen["closed"]) == (2, 5, 2, 0)
    assert [entry["answer"] for entry in unseen["most_frequent"]] == ["pelvic", "spleen"]


def test_the_distribution_of_answers_has_exact_shares(report):
    train = report["splits"]["train"]
    counts = {"rows": 16, "images": 12, "questions": 3, "open": 14, "closed": 2, "untyped": 0, "answers": 4, "half": 1}
    assert {name: train[name] for name in counts} == counts
    assert train["top"][0] == {"answer": "axial", "rows": 13, "percent": 81.25}
    assert report["answers"]["rows"] == 21


def test_the_question_alone_is_scored_by_hand_worked_figures(report):
    found = {entry["name"]: entry["figures"] for entry in report["question_alone"]["validation"]}
    # Of five answers axial is right three times; liver, the one answer to the organ's question, never.
    for name in ("most frequent answer", "most frequent answer to the same question", "text-only classifier"):
        assert found[name]["all"] == {"n": 5, "exact_match": [60.0, None, None], "f1": [60.0, None, None]}
        assert set(found[name]) == {"all", "open"}


def organs(number):
    places = {"liver": "abdomen", "heart": "chest", "brain": "head"}
    wordings = ("Where is the {}?", "In which part is the {}?", "The {} is where?")
    for i in range(number):
        organ = list(places)[i % 3]
        yield wordings[i // 3 % 3].format(organ), places[organ]


def test_the_text_only_classifier_reads_words_of_questions_that_training_never_asked():
    questions, answers = zip(*organs(60), strict=True)
    asked = ["Tell me where the heart is", "brain: where?", "Liver"]
    images = np.repeat(np.arange(20), 3)
    first, second = (text_only_answers(questions, answers, answers, images, asked) for _ in range(2))
    assert first == second == ["chest", "head", "abdomen"]
    assert majority_answers([{"question": "?", "answer": "head"}], [{"question": asked[0]}]) == ["head"]


def test_the_text_only_classifier_gives_the_more_frequent_of_two_answers_and_its_usual_spelling():
    answers = ["yes", "Yes", "Yes", "no"] * 10
    identities = [answer.lower() for answer in answers]
    asked = ["Is it big?", "unknown words"]
    found = text_only_answers(["Is it big?"] * 40, answers, identities, np.arange(40) // 2, asked)
    assert found == ["Yes", "Yes"]


def test_the_limits_of_the_text_only_classifier_hold_where_there_is_much_to_read(monkeypatch):
    questions, answers = zip(*organs(61), strict=True)  # the liver is asked for once more than the others
    asked, images = ["Where is the heart?", "Where is the brain?"], np.arange(61)
    monkeypatch.setattr(question_only, "MAX_WEIGHTS", 30)  # ten words and pairs for three answers
    monkeypatch.setattr(question_only, "MAX_QUESTIONS", 8)  # of nine different ones
    assert text_only_answers(questions, answers, answers, images, asked) == ["chest", "head"]
    monkeypatch.setattr(question_only, "MAX_ANSWERS", 1)
    assert text_only_answers(questions, answers, answers, images, asked) == ["abdomen"] * 2


def test_chinese_questions_are_read_by_characters():
    questions = ["肝脏在哪里", "心脏在哪里"] * 10
    answers = ["腹部", "胸部"] * 10
    assert text_only_answers(questions, answers, answers, np.arange(20), ["这里有心脏吗"]) == ["胸部"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Is it big?", "is it  BIG", True),
        ("What's this?", "Whats this", True),
        ("x-ray or CT?", "X ray, or CT", True),
        ("肝脏正常吗？", "肝脏正常吗", True),  # noqa: RUF001
        ("Is it < 5 cm?", "Is it > 5 cm?", False),
        ("???", "!!!", False),
    ],
)
def test_questions_are_one_but_for_case_and_punctuation(one, other, same):
    assert (question_identity(one) == question_identity(other)) is same


def test_each_image_gets_its_best_match():
    others = [thumbnail(picture(seed)) for seed in range(5)]
    images = [thumbnail(picture(3)), thumbnail(ImageEnhance.Contrast(picture(1)).enhance(0.7)), others[0]]
    best, correlation = near_pairs(images, others)
    assert best.tolist() == [3, 1, 0]
    grey = [np.frombuffer(one, np.uint8) for one in (*images, *(others[number] for number in best))]
    assert correlation == pytest.approx(np.corrcoef(grey)[range(3), range(3, 6)], abs=1e-5)
    with pytest.raises(ValueError, match="no images to compare"):
        near_pairs(images, [])


def test_predictions_are_scored_with_and_without_what_training_has_seen(planted, tmp_path):
    said = {19: "axial", 20: "liver", 21: "coronal", 22: "axial", 23: "axial"}
    lines = [json.dumps({"id": f"q{number}", "prediction": text}) for number, text in said.items()]
    (tmp_path / "p.jsonl").write_text("\n".join([*lines, json.dumps({"id": "other", "prediction": "x"})]))
    found = audit(planted, tmp_path / "out", "--predictions", str(tmp_path / "p.jsonl"))["predictions"]
    assert (found["split"], found["questions"], found["strangers"]["count"]) == ("validation", 5, 1)
    exact = {part["of"]: (part["figures"][0]["percent"], part["figures"][0]["n"]) for part in found["figures"]}
    assert exact == {
        "all questions": (40.0, 5),
        "those whose image is in training": (50.0, 2),
        "those whose image has a near neighbour in training": (0.0, 1),
        "those whose image has none in training": (50.0, 2),
    }
    assert "Predictions: p.jsonl" in (tmp_path / "out" / "audit.html").read_text()


def test_predictions_without_ids_are_refused_in_a_sentence(planted, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps([{"response": "a", "answer": "b"}]))
    with pytest.raises(UserError, match="MedEvalKit's results have no ids of questions, so their images can't be"):
        audit(planted, tmp_path / "out", "--predictions", str(tmp_path / "results.json"))
    assert not (tmp_path / "out").exists()


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_page_shows_pairs_and_needs_no_script_and_no_other_file(planted, tmp_path):
    audit(planted, tmp_path)
    page = Tags((tmp_path / "audit.html").read_text())
    images = [attrs["src"] for tag, attrs in page.found if tag == "img"]
    assert sum(source.startswith("data:image/jpeg;base64,") for source in images) == 4  # two pairs
    assert sum(source.startswith("data:image/png;base64,") for source in images) == 2  # charts
    assert len(images) == 6
    assert not {"script", "link", "iframe", "object", "a", "b"} & {tag for tag, _ in page.found}
    assert not any(name.startswith("on") or name == "href" for _, attrs in page.found for name in attrs)
    assert MARKUP in page.text
    assert "the same pixels" in page.text


def test_the_page_shows_40_pairs_and_the_json_has_all(tmp_path):
    rows = []
    for number in range(43):
        picture(number).save(tmp_path / f"t{number}.png")
        ImageEnhance.Contrast(picture(number)).enhance(0.6).save(tmp_path / f"v{number}.png")
        rows += [row(f"{name[0]}{number}.png", "What?", "x", name) for name in ("train", "validation")]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    pairs = audit(tmp_path / "rows.json", tmp_path / "out")["overlaps"][0]["pairs"]
    assert {tuple(pair["images"]) for pair in pairs} == {(f"t{number}.png", f"v{number}.png") for number in range(43)}
    correlations = [pair["correlation"] for pair in pairs]
    assert correlations == sorted(correlations, reverse=True)
    page = (tmp_path / "out" / "audit.html").read_text()
    assert page.count("data:image/jpeg") == 80
    assert "40 of 43 pairs" in page


def test_a_page_to_publish_shows_no_image_of_the_data(planted, tmp_path):
    audit(planted, tmp_path, "--no_images")
    page = (tmp_path / "audit.html").read_text()
    assert "data:image/jpeg" not in page
    assert "this page shows no images" in page
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "audit.html",
        "audit.json",
        "question_alone_validation.png",
        "seen_in_training.png",
    ]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("leaks", "found 1 images or groups that are in two splits; see"),
        ("bad_rows, contradictions", "found 2 rows that can't be used and 2 questions that are answered in two ways"),
        ("neighbours", "found 1 images that look almost like one in an earlier split"),
    ],
)
def test_findings_end_the_command_with_status_3_and_a_sentence(planted, tmp_path, monkeypatch, capsys, names, told):
    flags = [str(planted), "--output_dir", str(tmp_path / "out"), "--fail_on", names]
    monkeypatch.setattr(sys, "argv", ["audit", *flags])
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 3
    printed = capsys.readouterr()
    assert told in printed.err
    assert re.search(r"rows that can't be used: 2\n  \S+ row \d+: missing image missing.png\n", printed.out)
    assert (tmp_path / "out" / "audit.html").is_file()


def test_an_unknown_finding_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UserError, match="--fail_on leeks: there is no such finding; choose of leaks, neighbours"):
        audit(tmp_path / "nothing", tmp_path / "out", "--fail_on", "leeks")


def test_a_file_in_the_place_of_the_folder_is_a_sentence(planted, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match=r"--output_dir .*out: it can't be written \(.+\); choose another folder."):
        main([str(planted), "--output_dir", str(tmp_path / "out")])
    assert (tmp_path / "out").read_text() == "mine"


def test_groups_in_two_splits_are_leaks(tmp_path):
    for number in range(4):
        picture(number).save(tmp_path / f"{number}.png")
    splits = ["train", "train", "validation", "validation"]
    rows = [row(f"{i}.png", "What?", "x", split, group=f"p{i % 2}") for i, split in enumerate(splits)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    with pytest.raises(AuditFailed, match="found 2 images or groups"):
        audit(tmp_path / "rows.json", tmp_path / "out", "--fail_on", "leaks,neighbours")
    report = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert report["overlaps"][0]["groups"] == 2
    assert report["seen_in_training"]["validation"]["near"] == {"rows": 2, "images": 2}


def test_data_without_splits_gets_the_split_of_a_run_and_too_few_images_get_none(tmp_path):
    for number in range(20):
        picture(number).save(tmp_path / f"{number}.png")
    rows = [{"image": f"{number}.png", "question": "What?", "answer": "x"} for number in range(20)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    report = audit(tmp_path / "rows.json", tmp_path / "out")
    assert report["data"]["splits"].startswith("none of its own; by image")
    assert {name: split["rows"] for name, split in report["splits"].items()} == {
        name: len(split) for name, split in load_vqa_dataset(str(tmp_path / "rows.json")).items()
    }
    (tmp_path / "two.json").write_text(json.dumps([*rows[:2], rows[0]]))
    report = audit(tmp_path / "two.json", tmp_path / "out")
    assert "none can be made: 2 images are too few to split by image" in report["data"]["splits"]
    assert (report["splits"], report["answers"]["rows"], report["duplicates"]["rows"]) == ({}, 3, 1)


def test_an_audit_of_phantoms_finds_what_a_run_reports(phantoms, tmp_path):
    report = audit(phantoms, tmp_path, "--no_images")
    dataset = load_vqa_dataset(str(phantoms))
    assert report["bad_rows"]["rows"] == report["contradictions"]["questions"] == 0
    for split in ("validation", "test"):
        rows = list(dataset[split])
        entry = report["question_alone"][split][1]["figures"]["all"]
        figures = score_answers(rows, majority_answers(dataset["train"], rows))
        assert entry["n"] == len(rows)
        assert entry["exact_match"][0] == pytest.approx(figures["exact_match"], abs=0.005)
        seen = report["seen_in_training"][split]
        assert {name: count["rows"] for name, count in seen.items()} == {
            name: list(dataset[split]["overlap"]).count(name) for name in ("same", "near", "none")
        }


def test_slake_has_the_findings_of_the_docs(slake, tmp_path):
    report = audit(slake, tmp_path, "--no_images")
    assert report["seen_in_training"]["validation"] == {
        "same": {"rows": 0, "images": 0},
        "near": {"rows": 380, "images": 39},
        "none": {"rows": 673, "images": 57},
    }
    assert (report["duplicates"]["rows"], report["contradictions"]["questions"]) == (7, 0)
    assert (report["bad_rows"]["rows"], report["unseen_answers"]["validation"]["rows"]) == (1, 3)
    majority, text_only = (entry["figures"]["all"] for entry in report["question_alone"]["validation"][1:])
    assert majority["exact_match"] == [56.6, 53.57, 59.61]
    assert 57 < text_only["exact_match"][0] < 60


def test_vqa_rad_has_the_findings_of_the_docs(vqa_rad, tmp_path):
    report = audit(vqa_rad, tmp_path, "--no_images")
    assert (report["data"]["usable_rows"], report["data"]["images"], report["answers"]["answers"]) == (3064, 314, 465)
    assert report["duplicates"]["rows"] == 471
    found = report["contradictions"]
    assert (found["questions"], found["closed_questions"], found["rows"]) == (24, 11, 54)
    assert {split: unseen["rows"] for split, unseen in report["unseen_answers"].items()} == {
        "validation": 72,
        "test": 74,
    }
    assert report["question_alone"]["test"][1]["figures"]["all"]["exact_match"] == [23.49, 15.22, 32.24]
