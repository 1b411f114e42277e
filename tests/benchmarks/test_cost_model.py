"""benchmarks.cost_model, against what PyTorch counts in the models themselves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText, Blip2Config
from transformers.initialization import no_init_weights

from benchmarks.blip2_variants import CONFIG, PROMPT, VARIANTS, add_lora, make_processor
from benchmarks.cost_model import blip2_cost, main, vlm_cost
from benchmarks.published_vlms import PUBLISHED, PublishedVlm
from benchmarks.vlm_variants import TOY, untrained
from benchmarks.vlm_variants import VARIANTS as VLM_VARIANTS
from processing.collators import Blip2Collator
from processing.data import load_vqa_dataset
from tests.support.tiny_vlms import MAKERS

SMALL = {  # the benchmark's proportions at a third of its depth and a quarter of its pixels
    "vision_config": {**CONFIG["vision_config"], "num_hidden_layers": 3, "image_size": 112},
    "qformer_config": {**CONFIG["qformer_config"], "num_hidden_layers": 2},
    "text_config": {**CONFIG["text_config"], "num_hidden_layers": 4},
}

SMALL_VLM = replace(  # with heads that share keys and values
    TOY,
    text=TOY.text | {"num_hidden_layers": 4, "num_key_value_heads": 4},
    vision=TOY.vision | {"num_hidden_layers": 5},
    side=8,
)
VLMS = {
    "idefics3": PublishedVlm("idefics3", replace(SMALL_VLM, side=4, tiles=2)),
    "gemma3": PublishedVlm("gemma3", SMALL_VLM),
    "qwen2_5_vl": PublishedVlm("qwen2_5_vl", SMALL_VLM),
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


@pytest.mark.parametrize("name", VLMS)
def test_counts_of_image_text_to_text_models_are_those_of_the_models_within_a_tenth(rows, name):
    counted, rows = {}, rows[:4]
    for variant in ("plain", "project"):
        model, processor = untrained(name, VLMS[name].sizes, rows)
        with FlopCounterMode(display=False) as of_features:
            side = VLM_VARIANTS[variant](model, processor, rows)
        with FlopCounterMode(display=False) as counter:
            side.model(**side.batch(rows)).loss.backward()
        counted[variant] = counter.get_total_flops() / len(rows)
    batch = side.batch(rows)
    image_tokens = VLMS[name].crops * VLMS[name].sizes.side ** 2
    prompts = [side.chat(row["question"], side.collator.images[row["image"]].text) for row in rows]
    answers = [len(side.collator.answer_ids(row["answer"])) for row in rows]
    cost = vlm_cost(
        VLMS[name],
        len(rows),
        batch["input_ids"].numel() / len(rows),
        float(np.mean(answers)),
        max(len(prompt.rest) + answer for prompt, answer in zip(prompts, answers, strict=True)),
        batch["trunk_ids"].shape[1] - image_tokens,
    )
    assert batch["image_features"][0].shape[1] == image_tokens
    assert cost.feature_bytes == batch["image_features"][0].half().nbytes
    assert cost.training == pytest.approx(counted["project"], rel=0.1)
    assert cost.image == pytest.approx(of_features.get_total_flops(), rel=0.1)
    assert cost.training_plain == pytest.approx(counted["plain"], rel=0.1)


@pytest.mark.parametrize(
    ("name", "weights"),
    [("smolvlm-500m", 507_482_304), ("qwen2.5-vl-3b", 3_754_622_976), ("medgemma-4b", 4_300_079_472)],
)
def test_published_models_have_as_many_weights_as_on_the_hub(name, weights):
    config, _ = MAKERS[PUBLISHED[name].architecture](PUBLISHED[name].sizes)
    with torch.device("meta"), no_init_weights():
        model = AutoModelForImageTextToText.from_config(config)
    model.tie_weights()
    assert sum(parameter.numel() for parameter in model.parameters()) == weights


@pytest.mark.parametrize(
    ("name", "changes", "speedup"),
    [
        ("smolvlm-500m", {}, 28),
        ("smolvlm-500m", {"tiles": 1}, 8.9),
        ("qwen2.5-vl-3b", {"side": 14}, 8.2),
        ("medgemma-4b", {}, 16),
    ],
)
def test_speedups_are_those_worked_out_by_hand(name, changes, speedup):
    model = PUBLISHED[name]._replace(sizes=replace(PUBLISHED[name].sizes, **changes))
    cost = vlm_cost(model, questions_per_image=11, question_tokens=22)
    assert cost.training_plain / cost.training == pytest.approx(speedup, rel=0.05)


def test_table_of_a_large_data_set(capsys):
    main(["--images", "100000000", "--questions", "152000000"])
    table = capsys.readouterr().out
    assert "kept features of all" in table
    features = 2 * 257 * 1408 * 1e8 / 1e9
    assert f"{features:,.2f} GB" in table


def test_table_of_an_image_text_to_text_model(capsys):
    main(["--model", "medgemma-4b", "--images", "1000", "--questions", "11000", "--questions_per_image", "11"])
    table = capsys.readouterr().out
    assert f"{2 * 256 * 2560 * 1000 / 1e9:,.2f} GB" in table
    assert "9.76 TFLOP" in table  # 5.5 of them for the image; 4 * 273 tokens * 3.9e9 weights for the language model
