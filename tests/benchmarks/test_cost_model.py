"""benchmarks.cost_model, against what PyTorch counts in the models themselves."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Blip2Config

from benchmarks.blip2_variants import CONFIG, PROMPT, VARIANTS, add_lora, make_processor
from benchmarks.cost_model import blip2_cost, main
from processing.collators import Blip2Collator
from processing.data import load_vqa_dataset

SMALL = {  # the benchmark's proportions at a third of its depth and a quarter of its pixels
    "vision_config": {**CONFIG["vision_config"], "num_hidden_layers": 3, "image_size": 112},
    "qformer_config": {**CONFIG["qformer_config"], "num_hidden_layers": 2},
    "text_config": {**CONFIG["text_config"], "num_hidden_layers": 4},
}


@pytest.fixture(scope="module")
def rows(phantoms):
    dataset = load_vqa_dataset(str(phantoms))["train"]
    image = dataset[0]["image"]
    return [row for row in dataset if row["image"] == image][:8]


def counted(variant: str, rows: list[dict]) -> tuple[float, float]:
    """FLOPs a question, of training and of an image's features."""
    processor = make_processor(rows)
    processor.image_processor.size = {"height": 112, "width": 112}
    model = VARIANTS[variant].model_class(Blip2Config(**{**CONFIG, **SMALL}))
    model.vision_model.requires_grad_(False)
    collator = Blip2Collator(processor, PROMPT, len(rows), decoder_only=True)
    with FlopCounterMode(display=False) as of_features:
        side = VARIANTS[variant](collator, add_lora(model), rows)
    with FlopCounterMode(display=False) as counter:
        side.model(**side.batch(rows)).loss.backward()
    return counter.get_total_flops() / len(rows), of_features.get_total_flops()


def test_counts_are_those_of_the_models_within_a_tenth(rows):
    torch.manual_seed(0)
    processor = make_processor(rows)
    collator = Blip2Collator(processor, PROMPT, len(rows), decoder_only=True)
    answers = [len(collator.answer_ids(row["answer"])) for row in rows]
    lengths = [
        len(processor.tokenizer(PROMPT.format(row["question"]))["input_ids"]) + answer
        for row, answer in zip(rows, answers, strict=True)
    ]
    packed = collator(list(rows))["input_ids"].numel() / len(rows)  # equal beginnings are shared
    config = Blip2Config(**{**CONFIG, **SMALL})
    cost = blip2_cost(config, len(rows), packed, float(np.mean(answers)), max(lengths))
    training, features = counted("project", rows)
    plain, _ = counted("plain", rows)
    assert cost.training == pytest.approx(training, rel=0.1)
    assert cost.image == pytest.approx(features, rel=0.1)
    assert cost.training_plain == pytest.approx(plain, rel=0.1)


def test_table_of_a_large_data_set(capsys):
    main(["--images", "100000000", "--questions", "152000000"])
    table = capsys.readouterr().out
    assert "kept features of all" in table
    features = 2 * 257 * 1408 * 1e8 / 1e9
    assert f"{features:,.2f} GB" in table
