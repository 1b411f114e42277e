"""benchmarks.gpu at tiny size on a CPU: both sides train on the same batches to the same losses."""

import pytest
import torch
from transformers import Blip2Config, ViltConfig

from benchmarks import gpu
from benchmarks.gpu_variants import Options
from benchmarks.published_vlms import PublishedVlm
from modeling.vilt.scratch import SIZES
from processing.errors import UserError
from tests.support.tiny_blip2 import text_config
from tests.support.tiny_vlms import TINY

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def blip2(kind: str) -> Blip2Config:
    return Blip2Config(
        vision_config=SMALL | {"image_size": 64, "patch_size": 16},
        qformer_config=SMALL | gpu.QFORMER | {"vocab_size": 10},
        text_config=text_config(kind, 2100, 32),
        image_token_index=2099,
    )


CONFIGS = {
    "vilt": ViltConfig(**SIZES["tiny"]),
    "opt": blip2("opt"),
    "t5": blip2("t5"),
    **{name: PublishedVlm(name, TINY) for name in ("idefics3", "qwen2_5_vl", "gemma3")},
}


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDICAL_VQA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("modeling.training.shared_arguments.cpu_has_bf16", lambda: False)
    return Options(str(tmp_path / "out"), steps=3, batch_size=8)


@pytest.mark.parametrize("name", CONFIGS)
def test_both_sides_train_to_the_same_losses(phantoms, options, name):
    results = gpu.compare(CONFIGS[name], gpu.ordered_rows(str(phantoms), options), options)
    plain, project = results["plain"], results["project"]
    assert plain.precision == project.precision == "fp32"
    assert len(plain.losses) == 3
    assert len(set(plain.losses)) == 3
    assert project.losses == pytest.approx(plain.losses, rel=1e-3)
    for side in (plain, project):
        assert min(side.training, side.evaluation, side.preparation) > 0
        assert 0 < side.outside < 1
    assert results.keys() == {"plain", "project"}


def test_table_has_each_figure_of_both_sides_and_their_ratio(options):
    plain = gpu.Result("fp16", [4.0, 3.0], 10.0, 20.0, 0.5, 8e9, 4.0)
    project = gpu.Result("fp16", [4.0, 3.03], 50.0, 30.0, 0.25, 2e9, 6.0)
    lines = gpu.table({"ViLT": {"plain": plain, "project": project}}, "Some card", options).splitlines()
    assert lines[0] == "| Some card, 8 questions a step, 3 steps | plain recipe | this project | ratio |"
    assert lines[2:] == [
        "| **ViLT**, fp16 |  |  | |",
        "| training, questions a second | 10.0 | 50.0 | 5.00 |",
        "| peak memory, GB | 8.0 | 2.0 | 0.25 |",
        "| time outside forward and backward | 50% | 25% |  |",
        "| evaluation, questions a second | 20.0 | 30.0 | 1.50 |",
        "| until training begins, seconds | 4 | 6 | 1.50 |",
        "| loss of the first step | 4.0000 | 4.0000 | 1.00 |",
        "| loss of the last step | 3.0000 | 3.0300 | 1.01 |",
    ]


def test_side_that_does_not_fit_into_memory_is_named_and_the_other_measured(phantoms, options, monkeypatch):
    build = gpu.build

    def fail(name, *args):
        if name == "plain":
            raise torch.OutOfMemoryError
        return build(name, *args)

    monkeypatch.setattr(gpu, "build", fail)
    results = gpu.compare(CONFIGS["vilt"], gpu.ordered_rows(str(phantoms), options), options)
    lines = gpu.table({"ViLT": results}, "Some card", options).splitlines()
    assert lines[2] == "| **ViLT**, fp32 | out of memory |  | |"
    assert lines[3].startswith("| training, questions a second | - | ")


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="There is no GPU here"):
        gpu.main([])


def test_models_have_the_published_sizes():
    models = gpu.full_size_models()
    vision, text = models["blip2-opt-2.7b"].vision_config, models["blip2-opt-2.7b"].text_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.image_size, vision.patch_size) == (1408, 39, 224, 14)
    assert (text.hidden_size, text.num_hidden_layers, text.vocab_size) == (2560, 32, 50272)
    t5 = models["blip2-flan-t5-xl"].text_config
    assert (t5.d_model, t5.num_layers, t5.num_decoder_layers, t5.d_ff, t5.vocab_size) == (2048, 24, 24, 5120, 32128)
    assert (models["ViLT-B/32"].hidden_size, models["ViLT-B/32"].num_hidden_layers) == (768, 12)
    assert not models["blip2-flan-t5-xl"].use_decoder_only_language_model
