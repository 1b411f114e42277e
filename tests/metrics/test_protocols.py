"""metrics.protocols: answers scored as the field scores them. Expected values are worked out by hand."""

import json
import math

import pytest

from metrics.protocols.__main__ import main
from metrics.protocols.definitions import llava_med_closed, llava_med_open_recall, normalize_vqa, protocols
from metrics.protocols.figures import Answered, make_figures
from metrics.protocols.formats import answer_type_of, read_predictions
from metrics.protocols.joining import join
from processing.data import load_vqa_dataset
from processing.errors import UserError


def score(name, prediction, *golds, vocabulary=None):
    return {protocol.name: protocol.score for protocol in protocols(vocabulary)}[name](prediction, golds)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("X-ray", "x ray"),  # no space beside the hyphen
        ("T2 -weighted", "t2 weighted"),
        ("yes, no", "yes no"),
        ("1,000 and/or", "1000 andor"),  # a comma between digits: all marks go without a space
        ("1.5 cm.", "1.5 cm"),
        ("e.g. left", "eg left"),
        ("The left lung", "left lung"),
        ("None", "0"),
        ("Two lungs", "2 lungs"),
        ("eleven", "eleven"),
        ("isn't", "isn't"),
        ("5%", "5%"),
        ("." * 40, "." * 8),  # 32 periods at most
    ],
)
def test_answers_are_normalised_as_the_scripts_from_vqa_do(text, expected):
    assert normalize_vqa(text) == expected


@pytest.mark.parametrize(
    ("name", "prediction", "golds", "expected"),
    [
        ("squad_v2_exact", "The left lung.", ["left lung"], 1),
        ("squad_v2_exact", "HER2+", ["HER2-"], 1),
        ("squad_v2_exact", "", ["the"], 1),
        ("squad_v2_exact", "", ["the", "lung"], 0),  # a gold answer of nothing counts only alone
        ("squad_v2_f1", "left lung", ["left lower lobe", "lung"], 2 / 3),  # P = 1/2, R = 1 of "lung"
        ("accuracy", "left  Lung", ["Left lung"], 1),
        ("accuracy", "the left lung", ["left lung"], 0),
        ("accuracy", "HER2+", ["HER2-"], 0),
        ("accuracy", "mri", ["CT", "MRI"], 1),
        ("lmms_eval_exact_match", " Left lung.\n", ["left lung"], 1),
        ("lmms_eval_exact_match", "X-ray", ["Xray"], 1),
        ("lmms_eval_exact_match", "X ray", ["X-ray"], 0),
        ("lmms_eval_exact_match", "the left lung", ["left lung"], 0),
        ("lmms_eval_exact_match", "left  lung", ["left lung"], 0),
        ("lmms_eval_exact_match", "+", ["-"], 1),  # both are nothing without punctuation
        ("lmms_eval_exact_match_no_flags", "yes\n", ["yes"], 1),
        ("lmms_eval_exact_match_no_flags", "Yes", ["yes"], 0),
        ("mevf_accuracy", "x ray", ["X-Ray"], 1),
        ("mevf_accuracy", "2", ["Two"], 1),
        ("mevf_accuracy", "the left lung", ["Left lung"], 1),
        ("mevf_accuracy", "left", ["left lung"], 0),
        ("bleu_1", "left left lung", ["left lung"], 2 / 3),  # left counts once of twice
        ("bleu_1", "left lung", ["left lower lobe of the lung"], math.exp(1 - 5 / 2)),  # without the article
        ("bleu_1", "kidney", ["lung"], 0),
    ],
)
def test_scores_of_an_answer(name, prediction, golds, expected):
    assert score(name, prediction, *golds) == pytest.approx(expected)


def test_mevf_counts_no_answer_outside_the_vocabulary():
    assert score("mevf_accuracy", "right lung", "right lung") == 1
    assert score("mevf_accuracy", "right lung", "right lung", vocabulary=["left lung", "X-ray"]) == 0
    assert score("mevf_accuracy", "xray", "x ray", vocabulary=["left lung", "X-ray"]) == 1


@pytest.mark.parametrize(
    ("prediction", "gold", "expected"),
    [
        ("left left lung", "left lower lobe", 2 / 4),  # left twice, without lower and lobe; the true recall is 1/3
        ("the left, left lung is dark", "left lung", 1),  # other words cost nothing
        ("x ray of the chest", "X-ray", 1),
        ("2", "two", 1),
        ("right kidney", "left lung", 0),
        ("", "left lung", 0),
    ],
)
def test_open_recall_counts_the_words_of_the_prediction(prediction, gold, expected):
    assert llava_med_open_recall(prediction, gold) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "gold", "expected"),
    [
        ("Yes, it is.", "yes", 1),
        ("normal", "No", 1),  # no is in normal
        ("yes and no", "no", 1),
        ("yes", "no", None),  # wrong, and not counted
        ("left", "left", 0),  # right, but neither yes nor no
        ("the left is abnormal", "left", 1),
        ("", "yes", 0),
    ],
)
def test_closed_answers_count_as_in_the_script_of_llava_med(prediction, gold, expected):
    assert llava_med_closed(prediction, gold) == expected
    assert score("llava_med_closed_all", prediction, gold) == (expected or 0)


def by_name(figures):
    return {(figure.protocol, figure.questions): tuple(figure[2:]) for figure in figures}


def answered(pairs, image_of=lambda i: f"image {i}"):
    return [
        Answered(str(i), said, (gold,), answer_type, image_of(i)) for i, (said, gold, answer_type) in enumerate(pairs)
    ]


def test_figures_of_all_open_and_closed_questions():
    found = by_name(
        make_figures(
            answered(
                [
                    ("left lung", "left lung", "OPEN"),
                    ("left lobe", "left lung", "OPEN"),
                    ("yes", "yes", "CLOSED"),
                    ("yes", "no", "CLOSED"),
                    ("right", "right", "CLOSED"),
                    ("CT", "MRI", None),
                ]
            )
        )
    )
    nothing = (None, None)  # no interval for six images
    assert found["accuracy", "all"] == (6, 50.0, *nothing)
    assert found["accuracy", "open"] == (2, 50.0, *nothing)
    assert found["accuracy", "closed"] == (3, 66.67, *nothing)
    assert found["squad_v2_f1", "all"] == (6, 58.33, *nothing)  # 1 + 1/2 + 1 + 0 + 1 + 0 of 6
    assert found["llava_med_open_recall", "open"] == (2, 75.0, *nothing)
    assert found["llava_med_closed", "closed"] == (2, 50.0, *nothing)  # 1 and 0; the wrong yes is left out
    assert found["llava_med_closed_all", "closed"] == (3, 33.33, *nothing)
    assert ("llava_med_open_recall", "all") not in found
    assert ("llava_med_closed", "open") not in found


def test_a_script_that_counts_no_question_has_no_figure():
    found = by_name(make_figures(answered([("yes", "no", "CLOSED")])))
    assert found["llava_med_closed", "closed"] == (0, None, None, None)
    assert found["llava_med_closed_all", "closed"] == (1, 0.0, None, None)


def test_intervals_are_over_images_where_they_are_known():
    right = [("yes", "yes", "CLOSED")] * 24
    # Nothing is wrong: the exact bound 1 - 0.05^(1/n) of n images or questions.
    assert by_name(make_figures(answered(right, lambda i: str(i // 2))))["accuracy", "all"] == (24, 100, 77.91, 100)
    assert by_name(make_figures(answered(right, lambda i: None)))["accuracy", "all"] == (24, 100, 88.27, 100)


def jsonl(file, *rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


LLAVA_MED = {"prompt": "Is it CT?\n<image>", "text": "Yes", "answer_id": "x", "model_id": "m", "metadata": {}}


def test_own_predictions_are_read(tmp_path):
    row = {"id": 7, "image_id": "a.png", "question": "Is it CT?", "answer": "Yes", "language": "en"}
    file = jsonl(tmp_path / "p.jsonl", row | {"prediction": "No", "confidence": 0.5})
    found = read_predictions(file)
    assert found.format.name == "this project's predictions"
    assert found.rows == [Answered("7", "No", ("Yes",), None, "a.png", "Is it CT?")]


def test_tables_are_read(tmp_path):
    file = tmp_path / "p.csv"
    file.write_text("ID;Answer;Prediction;Answer_Type;Image\nq1;yes;No;closed-ended;a.png\nq2;MRI;;OPEN;b.png\n")
    found = read_predictions(file)
    assert found.format.name == "a table of ids and predictions"
    assert found.rows == [
        Answered("q1", "No", ("yes",), "CLOSED", "a.png"),
        Answered("q2", "", ("MRI",), "OPEN", "b.png"),
    ]
    assert found.empty == 1


def test_a_prediction_in_a_list_of_its_own_is_its_text(tmp_path):
    rows = [{"id": 1, "prediction": ["yes"], "answer": ["yes", "y"], "text": {"a": 1}}, {"id": 2, "prediction": []}]
    found = read_predictions(jsonl(tmp_path / "p.jsonl", *rows))
    assert [(row.prediction, row.answers) for row in found.rows] == [("yes", ("yes", "y")), ("", ("",))]


def test_samples_of_lmms_eval_are_read(tmp_path):
    doc = {"qid": 11934, "question": "Which modality?", "answer": "MRI", "answer_type": "OPEN", "img_name": "x/a.jpg"}
    first = {"doc_id": 0, "doc": doc, "target": "MRI", "resps": [["It is mri"]], "filtered_resps": ["mri"]}
    second = {"doc_id": 1, "doc": {"question": "Where?"}, "target": ["left", "left lung"], "resps": [["Left"]]}
    found = read_predictions(jsonl(tmp_path / "samples.jsonl", first, second))
    assert found.format.name == "lmms-eval's samples"
    assert found.rows == [
        Answered("11934", "mri", ("MRI",), "OPEN", "x/a.jpg", "Which modality?"),
        Answered("1", "Left", ("left", "left lung"), None, None, "Where?"),
    ]


def test_answers_of_llava_med_are_read(tmp_path):
    found = read_predictions(jsonl(tmp_path / "answers.jsonl", {"question_id": 3, **LLAVA_MED}))
    assert found.format.name == "LLaVA-Med's answers"
    assert found.rows == [Answered("3", "Yes", (), question="Is it CT?")]


def test_results_of_med_eval_kit_are_read(tmp_path):
    row = {"lang": "en", "answer_type": "OPEN", "answer": "MRI", "question": "Which?", "prompt": "Which? Answer."}
    file = tmp_path / "results.json"
    file.write_text(json.dumps([row | {"response": "mri", "correct": True, "metrics": {"em": True}}]))
    found = read_predictions(file)
    assert found.format.name == "MedEvalKit's results"
    assert found.rows == [Answered("1", "mri", ("MRI",), "OPEN", question="Which?")]


def test_usual_names_of_answer_types_are_known():
    names = ["OPEN", "open-ended", "other", "number", "CLOSED", "Closed-Ended", "yes/no", "", None, "shape"]
    assert [answer_type_of(name) for name in names] == ["OPEN"] * 4 + ["CLOSED"] * 3 + [None] * 3


def test_unusable_files_are_refused_in_a_sentence(tmp_path):
    file = tmp_path / "p.jsonl"

    def refusal(text):
        file.write_text(text)
        with pytest.raises(UserError) as refused:
            main([str(file)])
        return str(refused.value).removeprefix(f"{file}")

    assert refusal('{"name": 1, "reply": "a"}\n').startswith(
        ": no known format of predictions (fields: 'name', 'reply'); it needs id and prediction"
    )
    row = '{"id": 1, "answer": "a", "prediction": "a"}\n'
    assert refusal(row + row) == " row 2: the id 1 is that of row 1 too; keep one of them."
    assert refusal(row + '{"id": 2, "answer": ') == (
        ": not valid JSON at line 2, column 21 (Expecting value); correct or remove it."
    )
    assert refusal(row + '{"answer": "a", "prediction": "a"}') == " row 2: it has no id; write that of its question."
    assert refusal('{"id": 1, "prediction": "a"}') == ": it has no gold answers; name the data set by --dataset."
    for field, value in (("prediction", {"yes": 0.9}), ("prediction", ["a", "b"]), ("answer", {"text": ["a"]})):
        changed = json.dumps({"id": 2, "answer": "a", "prediction": "a"} | {field: value})
        assert refusal(row + changed) == f" row 2: {field} is no text but {value!r}; write a text."
    file.unlink()
    with pytest.raises(UserError, match="there is no such file"):
        main([str(file)])


def question(number, text, answer, answer_type, *, image="a.png", id_=True, answers=None):
    facts = {"question": text, "answer": answer, "answer_type": answer_type, "image_id": image, "answers": answers}
    return facts | {"row": number, "question_id": number if id_ else None}


def data_set(**changes):
    return {
        "train": [question(1, "Is it CT?", "Yes", "CLOSED"), question(2, "Where?", "left", "OPEN")],
        "test": [
            question(3, "Is it CT?", "No", "CLOSED", **changes),
            question(4, "Which?", "MRI", "OPEN", image="b.png", answers=["MRI", "MR"], **changes),
        ],
    }


def test_a_data_set_gives_answers_types_and_images(tmp_path):
    llava = [{"question_id": number, **LLAVA_MED} for number in (3, 9)]
    found = join(read_predictions(jsonl(tmp_path / "p.jsonl", *llava)), data_set(), "test")
    assert found.rows == [Answered("3", "Yes", ("No",), "CLOSED", "a.png", "Is it CT?")]
    assert (found.strangers, found.missing) == (["9"], ["4"])
    assert found.vocabulary == {"Yes", "left"}
    table = read_predictions(jsonl(tmp_path / "p.jsonl", {"id": 4, "prediction": "mr"}))
    assert join(table, data_set(), "test").rows == [Answered("4", "mr", ("MRI", "MR"), "OPEN", "b.png")]


def test_another_question_of_the_same_id_is_a_stranger(tmp_path):
    rows = [{"id": 3, "question": "is it  ct?", "prediction": "a"}, {"id": 4, "question": "Where?", "prediction": "a"}]
    found = join(read_predictions(jsonl(tmp_path / "p.jsonl", *rows)), data_set(), "test")
    assert ([row.id for row in found.rows], found.strangers) == (["3"], ["4"])


def test_numbers_are_ids_only_beside_the_text_of_the_question(tmp_path):
    row = {"id": 3, "prediction": "No"}
    with pytest.raises(UserError, match="None of the 1 predictions .3. is for a question of the test split"):
        join(read_predictions(jsonl(tmp_path / "p.jsonl", row)), data_set(id_=False), "test")
    found = join(
        read_predictions(jsonl(tmp_path / "p.jsonl", row | {"question": "Is it CT?"})), data_set(id_=False), "test"
    )
    assert found.rows == [Answered("3", "No", ("No",), "CLOSED", "a.png", "Is it CT?")]


def test_what_can_not_be_joined_is_refused(tmp_path):
    kit = read_predictions(jsonl(tmp_path / "p.jsonl", {"response": "a", "answer": "a"}))
    with pytest.raises(UserError, match="MedEvalKit's results have no ids of questions"):
        join(kit, data_set(), "test")
    table = read_predictions(jsonl(tmp_path / "p.jsonl", {"id": 4, "prediction": "mr"}))
    with pytest.raises(UserError, match="--split validation: the data set has no such split, but train and test."):
        join(table, data_set(), "validation")
    with pytest.raises(UserError, match="None of the 1 predictions .4. is for a question of the train split .1, 2.;"):
        join(table, data_set(), "train")


def test_predictions_of_a_run_have_the_figures_of_its_report(trained, tmp_path):
    main([str(trained / "predictions_validation.jsonl"), "--json", str(tmp_path / "figures.json")])
    report = json.loads((tmp_path / "figures.json").read_text())
    found = {(figure["protocol"], figure["questions"]): figure for figure in report["figures"]}
    results = json.loads((trained / "eval_results.json").read_text())
    for questions, prefix in (("all", ""), ("open", "open_"), ("closed", "closed_")):
        assert found["squad_v2_exact", questions]["percent"] == round(results[f"eval_{prefix}exact_match"], 2)
        assert found["squad_v2_f1", questions]["percent"] == round(results[f"eval_{prefix}f1"], 2)
        assert found["squad_v2_f1", questions]["n"] == results[f"eval_{prefix}total"]
    assert (report["format"], report["questions"]) == ("this project's predictions", results["eval_total"])


def test_the_command_scores_answers_to_the_questions_of_a_data_set(phantoms, tmp_path, capsys):
    rows = json.loads((phantoms / "test.json").read_text())
    said = [{"question_id": row["qid"], **LLAVA_MED, "prompt": row["question"]} for row in rows[1:]]
    for line, row in zip(said, rows[1:], strict=True):
        line["text"] = "Yes" if row["answer_type"] == "CLOSED" else row["answer"]
    file = jsonl(tmp_path / "answers.jsonl", *said, {"question_id": "other", **LLAVA_MED})
    main([str(file), "--dataset", str(phantoms), "--json", str(tmp_path / "figures.json")])
    report = json.loads((tmp_path / "figures.json").read_text())
    found = {(figure["protocol"], figure["questions"]): figure for figure in report["figures"]}
    closed = [row["answer"] for row in rows[1:] if row["answer_type"] == "CLOSED"]
    assert found["accuracy", "open"]["percent"] == 100
    assert found["accuracy", "closed"]["n"] == len(closed)
    assert found["accuracy", "closed"]["percent"] == round(100 * closed.count("Yes") / len(closed), 2)
    assert found["llava_med_closed", "closed"]["percent"] == 100  # the script leaves a wrong yes out
    assert report["images"] == len({row["img_name"] for row in rows[1:]})
    printed = capsys.readouterr().out
    assert printed.startswith(f"answers.jsonl: LLaVA-Med's answers, {len(rows) - 1:,} questions on ")
    assert f"Predictions for no question of the test split: 1 of {len(rows):,} (other); no figure counts" in printed
    assert f"Questions of the test split without a prediction: 1 ({rows[0]['qid']}); no figure counts" in printed


def test_closed_questions_can_be_those_of_yes_and_no(tmp_path, capsys):
    rows = [{"id": i, "answer": gold, "prediction": "yes"} for i, gold in enumerate(["Yes", "no", "left"])]
    file = jsonl(tmp_path / "p.jsonl", *rows)
    main([str(file)])
    printed = capsys.readouterr().out
    assert "Questions without an answer type: 3 (0, 1, 2); figures of open and closed questions leave them" in printed
    assert "The images are not known, so intervals are over questions and may be too narrow." in printed
    assert "closed  " not in printed
    main([str(file), "--closed_is_yes_no"])
    printed = capsys.readouterr().out
    assert "open and closed by whether the gold answer is yes or no" in printed
    assert ["accuracy", "closed", "2", "50.00", "-"] in [line.split() for line in printed.splitlines()]


def test_what_gold_answers_and_an_always_yes_reach_on_real_data(slake, vqa_rad):
    """The table of docs/protocols.md."""
    found = {}
    for name, folder in (("SLAKE", slake), ("VQA-RAD", vqa_rad)):
        dataset = load_vqa_dataset(str(folder))
        vocabulary = set(dataset["train"]["answer"])
        rows = [
            Answered(str(i), row["answer"], (row["answer"],), row["answer_type"], row["image_id"])
            for i, row in enumerate(dataset["validation"])
        ]
        for said, answers in (("gold", rows), ("yes", [row._replace(prediction="yes") for row in rows])):
            figures = by_name(make_figures(answers, vocabulary))
            names = ("accuracy", "llava_med_closed", "llava_med_closed_all", "mevf_accuracy")
            found[name, said] = [figures[protocol, "closed"][:2] for protocol in names]
    assert found == {
        ("SLAKE", "gold"): [(422, 100), (422, 84.83), (422, 84.83), (422, 100)],
        ("SLAKE", "yes"): [(422, 43.13), (182, 100), (422, 43.13), (422, 43.13)],
        ("VQA-RAD", "gold"): [(203, 100), (203, 90.15), (203, 90.15), (203, 96.55)],
        ("VQA-RAD", "yes"): [(203, 33.0), (67, 100), (203, 33.0), (203, 33.0)],
    }


def test_figures_come_a_second_time_without_near_neighbours():
    gold = {"answers": ("left lung",), "answer_type": "OPEN", "image_id": "a"}
    answers = zip(["left lung", "left lung", "left lung", "liver"], ["none", "near", "same", "none"], strict=True)
    rows = [Answered(str(i), text, overlap=overlap, **gold) for i, (text, overlap) in enumerate(answers)]
    figures = {(figure.protocol, figure.questions): (figure.n, figure.percent) for figure in make_figures(rows)}
    assert figures["squad_v2_exact", "all"] == figures["squad_v2_exact", "open"] == (4, 75)
    assert figures["squad_v2_exact", "all, no near neighbour"] == (2, 50)
    assert figures["llava_med_open_recall", "open, no near neighbour"] == (2, 50)
    alone = make_figures([row._replace(overlap="none") for row in rows])
    assert not [figure for figure in alone if "neighbour" in figure.questions]
