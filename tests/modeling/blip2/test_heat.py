"""modeling.blip2.heat: heat maps of several questions at once."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling.asking.predictor import Predictor
from modeling.blip2.family import heat_maps
from modeling.blip2.predictor import Blip2Predictor
from modeling.writing.answering import Answering
from processing.errors import UserError
from tests.modeling.blip2.tiny_runs import EVERYTHING, trained, untrained
from tests.support.tiny_blip2 import QUERIES


def test_maps_of_a_batch_are_those_of_each_question(bases, dataset, tmp_path):
    """Of questions about two images, three of them about one."""
    trainer = trained(bases["opt"], tmp_path, dataset, lora_targets=EVERYTHING, feature_cache_gb=1)
    trainer.save_model()
    by_image = dataset["validation"].sort("image")
    rows = [*by_image.select(range(3)), by_image[len(by_image) - 1]]
    maps = heat_maps(trainer, rows)
    assert len({row["image"] for row in rows}) == 2
    for row, heat in zip(rows, maps, strict=True):
        np.testing.assert_allclose(heat, heat_maps(trainer, [row])[0], rtol=1e-3, atol=1e-6)
    predictor = Predictor.from_pretrained(tmp_path, dtype="float32")
    alone = predictor.heat_map(rows[0]["image"], rows[0]["question"], rows[0]["answer"])
    np.testing.assert_allclose(maps[0], alone, rtol=0.02, atol=1e-4)  # features are kept as halves


def test_answer_that_is_longer_than_the_language_model_is_cut_for_its_map(bases, dataset, tmp_path):
    """A written answer may have more tokens than it was written with, as those of a broken character."""
    trainer = untrained(bases["opt"], tmp_path, dataset)
    places = trainer.data_collator.max_length
    assert places == 2048 - QUERIES
    rows = [dict(dataset["validation"][0]) | {"answer": "\ufffd" * 1500}, dataset["validation"][1]]
    assert len(trainer.data_collator.answer_ids(rows[0]["answer"])) > 4000
    batch = trainer.data_collator(rows[:1])
    assert batch["input_ids"].shape[1] == places - 1  # the last token is predicted, not read
    maps = heat_maps(trainer, rows)
    assert [float(heat.sum()) for heat in maps] == pytest.approx([1, 1])
    model, processor = trainer.model.get_base_model(), trainer.processing_class
    predictor = Predictor(Blip2Predictor(model, processor, torch.device("cpu"), Answering()))
    alone = predictor.heat_map(rows[0]["image"], rows[0]["question"], rows[0]["answer"])
    np.testing.assert_allclose(alone, maps[0], rtol=1e-3, atol=1e-6)


def test_more_tokens_than_the_language_model_has_places_for_are_refused(bases, dataset, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(bases["opt"], base)
    config = json.loads((base / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 100
    (base / "config.json").write_text(json.dumps(config))
    weights = load_file(base / "model.safetensors")
    key = "language_model.model.decoder.embed_positions.weight"
    weights[key] = weights[key][:102].clone()
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    trainer = untrained(base, tmp_path / "a", dataset)
    questions = {question for rows in dataset.values() for question in rows["question"]}
    room = 100 - QUERIES - max(len(trainer.data_collator.prompt_ids(question)) for question in questions)
    untrained(base, tmp_path / "b", dataset, max_new_tokens=room).predict(dataset["validation"].select(range(2)))
    with pytest.raises(
        UserError, match=f"--max_new_tokens {room + 1}: after the longest question .* for {room} tokens"
    ):
        untrained(base, tmp_path / "c", dataset, max_new_tokens=room + 1)
