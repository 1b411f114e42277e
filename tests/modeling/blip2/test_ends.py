"""Where an answer ends: at the base's own token, a new line for BLIP-2 over OPT, and at the tokenizer's."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from modeling.asking.predictor import Predictor
from modeling.blip2.base import load_base
from modeling.blip2.family import read_answers
from modeling.parts.model_files import open_model
from modeling.writing.answering import Answering, end_tokens
from tests.modeling.blip2.tiny_runs import untrained
from tests.support.hub_models import NEW_LINE, blip2_files, write_files


@pytest.fixture
def opt(dataset, tmp_path) -> Path:
    """A folder with an OPT as on the Hub."""
    texts = [text for row in dataset["train"] for text in (row["question"], row["answer"])]
    return write_files(tmp_path / "opt", blip2_files("opt", texts, 2026)[0])


def answer_tokens(base: Path, folder: Path, dataset, **changes) -> list[list[int]]:
    """What a base writes to the validation questions without a training, padding included."""
    trainer = untrained(base, folder, dataset, do_train=False, max_new_tokens=8, **changes)
    return trainer.predict(dataset["validation"]).predictions[0].tolist()


def test_training_appends_the_new_line_to_answers_of_opt_and_its_own_end_to_those_of_others(
    opt, bases, dataset, tmp_path
):
    trainer = untrained(opt, tmp_path / "a", dataset)
    ids = trainer.data_collator.answer_ids("left lung")
    assert ids[-1] == NEW_LINE
    labels = trainer.data_collator([dataset["train"][0]])["labels"]
    assert labels[labels != -100][-1] == NEW_LINE
    assert trainer.answering.end_token_id == NEW_LINE
    assert untrained(bases["llama"], tmp_path / "b", dataset).data_collator.answer_ids("left lung")[-1] == 1


@pytest.mark.parametrize("num_beams", [1, 2])
def test_bare_base_answers_cleanly_up_to_its_own_end(bases, dataset, tmp_path, num_beams):
    options = {"generation_num_beams": num_beams}
    endless = answer_tokens(bases["opt"], tmp_path / "a", dataset, **options)
    lengths = [row.index(1) if 1 in row else len(row) for row in endless]
    longest = max(range(len(endless)), key=lambda row: lengths[row])
    end = next(token for token in endless[longest][1:] if token != endless[longest][0])  # an ordinary token
    base = tmp_path / "base"
    write_files(base, {file.name: file.read_bytes() for file in bases["opt"].iterdir()})
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": end, "pad_token_id": 0}))
    trainer = untrained(base, tmp_path / "b", dataset, do_train=False, max_new_tokens=8, **options)
    output = trainer.predict(dataset["validation"])
    ended = output.predictions[0].tolist()
    assert any(end in row for row in ended)
    for row in ended:
        stop = next((place for place, token in enumerate(row) if token in (end, 1)), len(row))
        assert set(row[stop + 1 :]) <= {0, end}  # nothing but padding; beams of a padding token 0 are filled with ends
    if num_beams == 1:
        for row, before in zip(ended, endless, strict=True):
            stop = next((place for place, token in enumerate(before) if token in (end, 1)), len(before) - 1)
            assert row[: stop + 1] == before[: stop + 1]
    answers = read_answers(output, trainer)
    for number, row in zip(output.label_ids, ended, strict=True):
        kept = [token for token in row if token not in (end, 0, 1)]
        assert answers[int(number)][0] == trainer.processing_class.tokenizer.decode(kept).strip()


def test_answers_of_an_older_version_keep_the_end_that_they_were_trained_with(opt, dataset, images, tmp_path):
    candidates = ["yes", "no"]
    saved = Answering(prompt="Q: {} A:", candidates=candidates)
    content = {key: value for key, value in dataclasses.asdict(saved).items() if key != "end_token_id"}
    (opt / "answering.json").write_text(json.dumps(content))
    old = Predictor.from_pretrained(opt, dtype="float32").backend
    assert old.trie.sequences.max(1).values.tolist()[0] < NEW_LINE
    assert [row[row >= 0][-1].item() for row in old.trie.sequences] == [2, 2]
    dataclasses.replace(saved, end_token_id=NEW_LINE).save(opt)
    new = Predictor.from_pretrained(opt, dtype="float32").backend
    assert [row[row >= 0][-1].item() for row in new.trie.sequences] == [NEW_LINE, NEW_LINE]


def test_ends_are_the_union_of_the_models_and_the_tokenizers(bases):
    model, processor = load_base(open_model(str(bases["opt"])), torch.float32)
    for own, expected in ((None, [1]), (1, [1]), (7, [7, 1]), ([7, 1], [1, 7]), ([7, 9], [7, 9, 1])):
        model.generation_config.eos_token_id = own
        assert end_tokens(model, processor.tokenizer) == expected
