"""A model is evaluated on another data set, and a folder counts how often it was asked a test split."""

import json
import shutil

import pytest

import train
from metrics.squad_v2.scoring import exact_score
from modeling.hub.card import model_card
from modeling.training.record import note_test_look
from processing.answers import answer_identity
from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.phantom.files import write_phantoms

SHORT = ["--model_name_or_path", "scratch:tiny", "--max_steps", "2", "--eval_strategy", "no", "--save_strategy", "no"]
SHORT += ["--do_eval", "False", "--per_device_train_batch_size", "4", "--disable_tqdm", "True"]


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another phantom set."""
    return write_phantoms(tmp_path_factory.mktemp("other") / "set", num_images=14, seed=5, image_size=96)


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_model_is_evaluated_on_the_test_split_of_another_data_set(phantoms, other, tmp_path):
    out = tmp_path / "out"
    rows = json.loads((other / "test.json").read_text())
    changed = tmp_path / "other"
    shutil.copytree(other, changed)
    rows[0]["answer"] = "something that no training row says"
    (changed / "test.json").write_text(json.dumps(rows))
    flags = ["--dataset", str(phantoms), "--eval_dataset", str(changed), "--output_dir", str(out)]
    train.main([*flags, *SHORT])
    assert [row["question"] for row in lines(out / "predictions_test.jsonl")] == [row["question"] for row in rows]
    figures = json.loads((out / "test_results.json").read_text())
    known = {answer_identity(row["answer"]) for row in json.loads((phantoms / "train.json").read_text())}
    unknown = [row["answer"] for row in rows if answer_identity(row["answer"]) not in known]
    assert "something that no training row says" in unknown
    assert (figures["test_total"], figures["test_out_of_vocabulary"]) == (len(rows), len(unknown))
    record = json.loads((out / "run.json").read_text())
    assert record["eval_dataset"]["name"] == "own data"
    assert record["dataset"]["splits"]["test"]["questions"] == len(rows)
    assert record["test_looks"] == 1
    assert "--eval_dataset path/to/other/data" in record["command"]
    card = str(model_card(out))
    assert "The test split comes from other data: own data." in card
    assert "Models in this folder were evaluated on a test split once." in " ".join(card.split())

    train.main(
        [
            *flags[:4],
            "--model_name_or_path",
            str(out),
            "--output_dir",
            str(tmp_path / "again"),
            "--do_train",
            "False",
            "--do_eval",
            "False",
        ]
    )
    assert json.loads((out / "run.json").read_text())["test_looks"] == 2
    assert "evaluated on a test split 2 times, so the figures are no longer unbiased" in " ".join(
        str(model_card(out)).split()
    )
    assert not (tmp_path / "again" / "run.json").exists()


def test_numbers_of_rows_count_on_and_overlaps_are_with_the_training_rows(phantoms, other, tmp_path):
    changed = tmp_path / "other"
    shutil.copytree(other, changed)
    first = json.loads((phantoms / "train.json").read_text())[0]["img_name"]
    name = json.loads((changed / "test.json").read_text())[0]["img_name"]
    shutil.copy(phantoms / "imgs" / first, changed / "imgs" / name)
    with pytest.raises(UserError, match="that are also in --eval_dataset: 1 "):
        load_vqa_dataset(str(phantoms), eval_dataset=str(changed))
    kept = load_vqa_dataset(str(phantoms), eval_dataset=str(changed), leaks="keep")
    overlap = dict(zip(kept["test"]["image_id"], kept["test"]["overlap"], strict=True))
    assert overlap[name] == "same"
    assert kept["test"][0]["row"] == len(kept["train"]) + len(kept["validation"])
    own = load_vqa_dataset(str(phantoms))
    assert len(kept["train"]) == len(own["train"])
    dropped = load_vqa_dataset(str(phantoms), eval_dataset=str(changed), leaks="drop")
    assert len(dropped["train"]) < len(own["train"])


def test_data_set_without_splits_is_evaluated_whole(phantoms, other, tmp_path):
    rows = [row for name in ("train", "validate", "test") for row in json.loads((other / f"{name}.json").read_text())]
    table = [{"image": f"imgs/{r['img_name']}", "question": r["question"], "answer": r["answer"]} for r in rows]
    shutil.copytree(other / "imgs", tmp_path / "imgs")
    (tmp_path / "rows.json").write_text(json.dumps(table))
    assert len(load_vqa_dataset(str(phantoms), eval_dataset=str(tmp_path / "rows.json"))["test"]) == len(rows)


def test_figures_of_shared_images_stand_beside_those_of_the_others(phantoms, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(phantoms, data)
    train_rows, rows = (json.loads((data / f"{name}.json").read_text()) for name in ("train", "validate"))
    names = sorted({row["img_name"] for row in rows})
    shutil.copy(data / "imgs" / train_rows[0]["img_name"], data / "imgs" / names[0])  # now an image of training
    out = tmp_path / "out"
    flags = [*SHORT[: SHORT.index("--do_eval")], *SHORT[SHORT.index("--do_eval") + 2 :], "--dataset", str(data)]
    with pytest.raises(UserError, match=r"The splits share images \(1 in train and validation\)"):
        train.main([*flags, "--output_dir", str(out)])
    train.main([*flags, "--output_dir", str(out), "--leaks", "keep"])
    predictions = lines(out / "predictions_validation.jsonl")
    new = [row for row in predictions if row["overlap"] != "same"]
    assert {row["image_id"] for row in predictions} - {row["image_id"] for row in new} == {names[0]}
    figures = json.loads((out / "all_results.json").read_text())
    right = sum(exact_score(row["prediction"], row["answer"]) for row in new)
    assert figures["eval_new_image_total"] == len(new) < figures["eval_total"]
    assert figures["eval_new_image_exact_match"] == pytest.approx(100 * right / len(new))
    assert figures["eval_no_neighbour_total"] == sum(row["overlap"] == "none" for row in predictions)
    assert "validation (images in training: 1)" in (table := capsys.readouterr().out)
    assert "\n  new images " in table
    assert (
        "Images shared with training: 1. So figures over all rows measure memory"
        in (out / "report" / "report.md").read_text()
    )
    split = json.loads((out / "run.json").read_text())["dataset"]["splits"]["validation"]
    assert (split["images"], split["shared_with_training"]) == (len(names), 1)
    card = str(model_card(out))
    assert f"Of the {len(names)} validation images, images shared with training: 1," in card
    assert "| validation | Exact Match on images that are not in training |" in card
    assert "a run is refused if one is in two splits" not in card


def test_images_left_out_of_the_own_splits_are_not_called_shared(phantoms, tmp_path):
    """The own test rows are not evaluated, so the same images in the other data set are no leak."""
    rows = json.loads((phantoms / "test.json").read_text())
    shutil.copytree(phantoms, tmp_path / "other")
    first = json.loads((phantoms / "train.json").read_text())[0]
    (tmp_path / "other" / "test.json").write_text(json.dumps([first, *rows]))
    count = sum(row["img_name"] == first["img_name"] for row in json.loads((phantoms / "train.json").read_text()))
    with pytest.raises(UserError, match=rf"also in --eval_dataset: 1 \({count} rows, "):
        load_vqa_dataset(str(phantoms), eval_dataset=str(tmp_path / "other"))


def test_messages_about_the_other_data_set_name_it(phantoms, tmp_path):
    with pytest.raises(UserError, match="--eval_dataset nowhere: there is no such file or folder"):
        load_vqa_dataset(str(phantoms), eval_dataset="nowhere")
    with pytest.raises(UserError, match="--eval_dataset is empty"):
        load_vqa_dataset(str(phantoms), eval_dataset="")
    shutil.copytree(phantoms / "imgs", tmp_path / "imgs")
    image = f"imgs/{json.loads((phantoms / 'train.json').read_text())[0]['img_name']}"
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([{"image": image, "question": "What?", "answer": "lung", "language": "zh"}]))
    with pytest.raises(UserError, match=f"--eval_dataset {file}: --language en: no row is in that language"):
        load_vqa_dataset(str(phantoms), eval_dataset=str(file))
    file.write_text(json.dumps([{"image": image, "Frage": "What?", "answer": "lung"}]))
    with pytest.raises(UserError, match=r"Frage(.|\n)* are for --dataset alone"):
        load_vqa_dataset(str(phantoms), eval_dataset=str(file))


def test_several_gold_answers_and_options_of_the_other_data_set_count_everywhere(phantoms, tmp_path):
    """The training rows have neither."""
    shutil.copytree(phantoms / "imgs", tmp_path / "imgs")
    names = sorted({row["img_name"] for row in json.loads((phantoms / "test.json").read_text())})
    known = sorted({row["answer"] for row in json.loads((phantoms / "train.json").read_text())})
    rows = [{"image": f"imgs/{name}", "question": "Which organ?", "answer": ["unheard", *known]} for name in names]
    rows += [{"image": f"imgs/{n}", "question": "Right?", "answer": "yes", "choices": ["yes", "nay"]} for n in names]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    out = tmp_path / "out"
    flags = ["--dataset", str(phantoms), "--eval_dataset", str(tmp_path / "rows.json"), "--output_dir", str(out)]
    train.main([*flags, *SHORT])
    figures = json.loads((out / "test_results.json").read_text())
    assert (figures["test_exact_match"], figures["test_choice_accuracy"]) == (100, 100)
    assert (figures["test_out_of_vocabulary"], figures["test_choice_total"]) == (0, len(names))
    report = json.loads((out / "report" / "report.json").read_text())["test"]
    assert report["figures"][0]["exact_match"][0] == 100


@pytest.mark.parametrize("content", ["", "[]", "{", '{"test_looks": "often"}'])
def test_a_record_of_others_costs_no_evaluation(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    note_test_look(tmp_path)
    count = {"test_looks": 1} if "often" in content else None
    assert (tmp_path / "run.json").read_text() == (json.dumps(count, indent=2) + "\n" if count else content)
