"""The evidence head of a BLIP-2: trained beside the answers, saved with the adapter, and left out without boxes."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import train
from metrics.grounding import named_boxes, point
from modeling.blip2.family import find_evidence
from modeling.parts.evidence import GRID, Evidence
from modeling.parts.model_files import open_model
from modeling.predictor import Predictor
from modeling.writing.answering import Answering
from modeling.writing.evidence import TextTokens, loss_of_evidence, text_vectors
from processing.errors import UserError
from processing.images import open_image
from processing.wordings import training_wordings
from tests.modeling.blip2.tiny_runs import trained, untrained
from tests.support.short_runs import weights

EVIDENCE = {"evidence_weight": 0.5, "feature_cache_gb": 1}
LEARNING = {"max_steps": 30, "per_device_train_batch_size": 16, "lr_scheduler_type": "constant", "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def run(bases, dataset, tmp_path_factory):
    """The trainer of a run whose evidence head has learned something, saved and merged."""
    folder = tmp_path_factory.mktemp("evidence")
    trainer = trained(bases["opt"], folder, dataset, merge_adapter=True, **LEARNING, **EVIDENCE)
    trainer.save_model()
    return trainer


@pytest.fixture
def pointing_rows(dataset):
    """Rows whose answers name something in the image."""
    return [row for row in dataset["train"] if row["answer"] in {box["label"] for box in row["boxes"] or []}][:24]


def head_of(trainer) -> dict[str, torch.Tensor]:
    """Copies of the weights of the head that trains."""
    return {name: value for name, value in weights(trainer).items() if ".evidence." in name}


def same_evidence(one: Evidence | None, other: Evidence | None) -> bool:
    assert one is not None
    assert other is not None
    labels = [[box.label for box in evidence.boxes] for evidence in (one, other)]
    return labels[0] == labels[1] and np.allclose(one.cells, other.cells, atol=2e-3)


def test_the_head_learns_where_things_are(run, bases, dataset, pointing_rows, tmp_path):
    def mass(trainer) -> float:
        """The share of the evidence inside the boxes, above that of even evidence."""
        inside = []
        for row, evidence in zip(pointing_rows, find_evidence(trainer, pointing_rows), strict=True):
            cells = np.array(evidence.cells)
            boxes = named_boxes("", row["answer"], row["boxes"])
            pointing = point(cells / cells.sum(), boxes, open_image(row["image"]).size)
            inside.append(pointing.mass - pointing.area)
        return float(np.mean(inside))

    assert abs(mass(untrained(bases["opt"], tmp_path / "opt", dataset, **EVIDENCE))) < 0.05
    assert mass(run) > 0.25
    assert mass(trained(bases["t5"], tmp_path / "t5", dataset, **LEARNING, **EVIDENCE)) > 0.25


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_questions_bring_their_targets_whatever_sequence_they_are_in(bases, dataset, rows, tmp_path, kind):
    trainer = untrained(bases[kind], tmp_path, dataset, other_words=1.0, **EVIDENCE)
    batch = trainer.training_collator(rows)
    targets, tokenizer = batch["evidence"], trainer.processing_class.tokenizer
    if kind == "opt":
        assert len(batch["input_ids"]) < len(rows), "questions share sequences"
    images = list(dict.fromkeys(row["image"] for row in rows))
    features = trainer.data_collator.images.features
    assert torch.equal(batch["image_embeds"], torch.stack([features[image] for image in images]))
    texts = [
        tokenizer.decode(ids[mask.bool()]) for ids, mask in zip(targets["text_ids"], targets["text_mask"], strict=True)
    ]
    assert texts[0] == ""
    found = [
        (images[image], texts[question], texts[answer], round(float(mask.sum()), 3))
        for image, question, answer, mask in zip(
            targets["images"].tolist(),
            targets["questions"].tolist(),
            targets["answers"].tolist(),
            targets["masks"],
            strict=True,
        )
    ]
    labels = trainer.model.get_base_model().config.evidence_labels
    assert len([one for one in found if not one[1]]) == len(labels) * len(images)
    checked = 0
    for row in rows:
        width, height = open_image(row["image"]).size
        for label in labels:
            boxes = [box["bbox"] for box in row["boxes"] if box["label"] == label]
            if len(boxes) < 2:  # several may overlap
                cells = sum(w * h for _, _, w, h in boxes) / (width * height) * GRID**2
                [mass] = {one[3] for one in found if one[:3] == (row["image"], "", f" {label.lower()}")}
                assert mass == pytest.approx(cells, abs=0.01)
        words = {f" {wording.strip().lower()}" for wording in training_wordings(row["question"])}
        own = [one for one in found if one[0] == row["image"] and one[1] in words]
        if own:
            checked += 1
            assert {answer for *_, answer, _ in own} >= {f" {row['answer'].lower()}", ""}
            assert f" {row['question'].lower()}" not in {asked for _, asked, *_ in own}
    assert checked >= 4


def test_vectors_of_texts_are_those_of_their_words_without_a_prompt(bases, dataset, tmp_path):
    trainer = untrained(bases["opt"], tmp_path, dataset)
    tokenizer = trainer.processing_class.tokenizer
    embeddings = trainer.model.get_base_model().get_input_embeddings()
    vectors = text_vectors(embeddings, **TextTokens(tokenizer)(["", "Left Lung", "left lung ", "Liver"]))
    ids = tokenizer(" left lung", add_special_tokens=False)["input_ids"]
    expected = torch.nn.functional.normalize(embeddings.weight[ids].sum(0), dim=0) * 32**0.5
    torch.testing.assert_close(vectors[1], expected)
    assert torch.equal(vectors[0], torch.zeros(32))
    assert torch.equal(vectors[1], vectors[2])
    assert not vectors.requires_grad
    assert TextTokens(tokenizer)([""])["text_mask"].tolist() == [[0]]


def test_adapter_and_merged_model_alone_find_what_the_trainer_finds(run, pointing_rows, dataset, tmp_path):
    rows = pointing_rows[:6]
    found = find_evidence(run, rows)
    assert len({box.label for evidence in found for box in evidence.boxes}) > 1
    folder = run.args.output_dir
    reloaded = untrained(folder, tmp_path, dataset, do_train=False)
    assert all(map(same_evidence, find_evidence(reloaded, rows), found))
    for place in (folder, f"{folder}/merged"):
        predictor = Predictor.from_pretrained(place, dtype="float32")
        answers = predictor.answer_batch([row["image"] for row in rows], [row["question"] for row in rows], top_k=1)
        asked = [row | {"answer": answer.answer} for row, answer in zip(rows, answers, strict=True)]
        for answer, evidence in zip(answers, find_evidence(run, asked), strict=True):
            assert same_evidence(answer.evidence, evidence)
            assert answer.evidence.contradicts == evidence.contradicts
    labels = sorted({box["label"] for boxes in dataset["train"]["boxes"] for box in boxes or []})
    for file in ("answering.json", "merged/answering.json", "merged/config.json"):
        with open(f"{folder}/{file}") as text:
            assert json.load(text)["evidence_labels"] == labels
    kept = load_file(f"{folder}/adapter_model.safetensors")
    assert {value.dtype for name, value in kept.items() if ".evidence." in name} == {torch.float32}


def test_head_is_fp32_over_a_half_precision_base(run):
    predictor = Predictor.from_pretrained(f"{run.args.output_dir}/merged", dtype="bfloat16")
    assert {p.dtype for p in predictor.model.evidence.parameters()} == {torch.float32}
    assert predictor.model.language_model.dtype == torch.bfloat16


def test_a_model_in_bf16_finds_about_the_same(run, pointing_rows, dataset, tmp_path):
    rows = pointing_rows[:4]
    reloaded = untrained(run.args.output_dir, tmp_path, dataset, do_train=False)
    reloaded.model.to(torch.bfloat16)  # as --bf16_full_eval does
    for one, other in zip(find_evidence(reloaded, rows), find_evidence(run, rows), strict=True):
        np.testing.assert_allclose(one.cells, other.cells, atol=0.1)


def test_no_boxes_no_head(bases, dataset, tmp_path):
    without = dataset.map(lambda row: {"boxes": None}, load_from_cache_file=False, features=dataset["train"].features)
    for name, rows, weight in (("without", without, 0.5), ("unwanted", dataset, 0.0)):
        trainer = untrained(bases["opt"], tmp_path / name, rows, evidence_weight=weight)
        assert trainer.model.get_base_model().evidence is None
        assert trainer.training_collator is None
        trainer.save_model()
        assert find_evidence(trainer, [dataset["train"][0]]) == [None]
        assert "evidence" not in (tmp_path / name / "answering.json").read_text()
        assert json.loads((tmp_path / name / "adapter_config.json").read_text())["modules_to_save"] is None
        assert not [key for key in load_file(tmp_path / name / "adapter_model.safetensors") if "lora_" not in key]
        predictor = Predictor.from_pretrained(tmp_path / name, dtype="float32")
        assert predictor.answer(dataset["train"][0]["image"], "Is this an MRI?").evidence is None


def test_training_goes_on_with_the_head_of_an_adapter_or_a_new_one(run, bases, dataset, tmp_path):
    folder = run.args.output_dir
    kept = untrained(folder, tmp_path / "kept", dataset, **EVIDENCE)
    assert head_of(kept)
    assert all(torch.equal(value, head_of(run)[name]) for name, value in head_of(kept).items())
    dropped = untrained(folder, tmp_path / "dropped", dataset)
    assert dropped.model.get_base_model().evidence is None
    others = {name: value for name, value in weights(run).items() if ".evidence." not in name}
    assert all(torch.equal(value, others[name]) for name, value in weights(dropped).items())
    assert weights(dropped).keys() == others.keys()
    dropped.save_model()
    assert Answering.from_pretrained(open_model(str(tmp_path / "dropped"))).evidence_labels is None
    renewed = untrained(tmp_path / "dropped", tmp_path / "renewed", dataset, **EVIDENCE)
    assert head_of(renewed).keys() == head_of(run).keys()
    renewed.save_model()
    assert any(".evidence." in name for name in load_file(tmp_path / "renewed" / "adapter_model.safetensors"))
    over_merged = untrained(f"{folder}/merged", tmp_path / "merged", dataset, **EVIDENCE)
    assert all(torch.equal(value, head_of(run)[name]) for name, value in head_of(over_merged).items())
    without = untrained(f"{folder}/merged", tmp_path / "merged", dataset)
    assert without.model.get_base_model().evidence is None


def test_accumulated_batches_give_the_head_of_one_batch(bases, dataset, tmp_path):
    one_step = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0} | EVIDENCE
    one_step |= {"per_device_train_batch_size": 4, "train_sampling_strategy": "sequential"}
    splits = {**dataset, "train": dataset["train"].select(range(4))}
    one = trained(bases["opt"], tmp_path / "one", type(dataset)(splits), **one_step)
    splits["train"] = dataset["train"].select([0, 1, 2, 3] * 2)
    two = trained(bases["opt"], tmp_path / "two", type(dataset)(splits), gradient_accumulation_steps=2, **one_step)
    start = head_of(untrained(bases["opt"], tmp_path / "none", dataset, **one_step))
    assert any((value - start[name]).abs().max() > 1e-2 for name, value in head_of(one).items() if "weight" in name)
    for name, value in head_of(one).items():
        torch.testing.assert_close(head_of(two)[name], value, atol=1e-5, rtol=1e-4)


def test_batches_count_by_their_answer_tokens_and_one_without_targets_reaches_the_head(bases, dataset, rows, tmp_path):
    trainer = untrained(bases["opt"], tmp_path, dataset, **EVIDENCE)
    model = trainer.model.train()
    base = model.get_base_model()
    batch = trainer.training_collator(rows)
    targets = batch.pop("evidence")
    states, _ = base.vision_states(image_embeds=batch["image_embeds"])
    places, embeddings = base.evidence_places(states), base.get_input_embeddings()
    answers, evidence = model(**batch).loss, loss_of_evidence(base, places, None, targets, embeddings)
    assert evidence > 0.5
    tokens = (batch["labels"] != -100).sum()
    torch.testing.assert_close(model(**batch, evidence=targets).loss, answers + evidence)
    loss = model(**batch, evidence=targets, num_items_in_batch=4 * tokens).loss
    torch.testing.assert_close(loss, (answers + evidence) / 4)
    base.config.evidence_weight = 2.0
    torch.testing.assert_close(model(**batch, evidence=targets).loss, answers + 4 * evidence)
    batch = trainer.training_collator([row | {"boxes": None} for row in rows])
    assert len(batch["evidence"]["masks"]) == 0
    loss = model(**batch).loss
    torch.testing.assert_close(loss, answers)
    loss.backward()
    gradients = [p.grad for name, p in model.named_parameters() if p.requires_grad and ".evidence." in name]
    assert gradients
    assert all(gradient is not None and not gradient.any() for gradient in gradients), "as DDP needs it"


def test_head_learns_at_the_rate_of_what_is_new(bases, dataset, tmp_path):
    whole = {"modules_to_save": ["qformer", "language_projection"], "lora_targets": ["language_model"]}
    trainer = untrained(bases["opt"], tmp_path, dataset, qformer_learning_rate=1e-5, **whole, **EVIDENCE)
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in trainer.create_optimizer().param_groups for p in group["params"]}
    assert {rate for name, rate in rates.items() if ".evidence." in name} == {2e-3}
    assert {rate for name, rate in rates.items() if ".qformer." in name} == {1e-5}
    assert trainer.args.modules_to_save == whole["modules_to_save"], "the recipe names what was asked for"


def test_checkpoint_without_a_head_is_of_another_run(bases, phantoms, tmp_path):
    flags = ["--model_type", "blip2", "--model_name_or_path", str(bases["opt"]), "--dataset", str(phantoms)]
    flags += ["--disable_tqdm", "True", "--max_steps", "1", "--save_strategy", "steps", "--save_steps", "1"]
    flags += ["--output_dir", str(tmp_path), "--do_eval", "False", "--evidence_weight"]
    train.main([*flags, "0"])
    with pytest.raises(UserError, match=r"checkpoint-1 is from another run \(its modules_to_save differs\)"):
        train.main([*flags, "0.5"])


def test_a_run_shows_where_it_found_its_answers(runs, phantoms):
    folder = runs("opt")
    lines = [json.loads(line) for line in (folder / "predictions_validation.jsonl").read_text().splitlines()]
    assert all("evidence_contradicts" in line for line in lines)
    report = json.loads((folder / "report" / "report.json").read_text())["validation"]
    assert report["evidence"][0]["questions"] == report["grounding"][0]["questions"] > 0
    assert "### Evidence" in (folder / "report" / "report.md").read_text()
    assert "of its evidence touches the box" in (folder / "README.md").read_text()
    predictor = Predictor.from_pretrained(folder, dtype="float32")
    for line in lines[:6]:
        answer = predictor.answer(phantoms / "imgs" / line["image_id"].removeprefix("imgs/"), line["question"])
        assert answer.answer == line["prediction"]
        assert np.array(answer.evidence.cells).shape == (GRID, GRID)
        assert [box.label for box in answer.evidence.boxes] == [box["label"] for box in line["evidence"]]
        assert answer.evidence.contradicts == line["evidence_contradicts"]
