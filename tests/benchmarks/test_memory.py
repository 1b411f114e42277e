"""benchmarks.memory: what is counted without values is what PyTorch takes, and what can be worked out by hand."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_leaves
from transformers import Blip2Config, ViltConfig

from benchmarks import memory
from benchmarks.memory_counter import AsOnGpu, count, train_steps
from benchmarks.options import load_splits, rows_of_steps
from benchmarks.published_vlms import PublishedVlm
from tests.support.tiny_blip2 import text_config
from tests.support.tiny_vlms import TINY, Sizes

SMALL = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}


def blip2(kind: str) -> Blip2Config:
    return Blip2Config(
        vision_config=SMALL | {"image_size": 64, "patch_size": 16},
        qformer_config=SMALL | {"vocab_size": 10},
        text_config=text_config(kind, 2100, 64),
        image_token_index=2099,
    )


WIDER = {"hidden_size": 64, "intermediate_size": 256, "head_dim": 16}
CONFIGS = {
    "vilt": ViltConfig(**SMALL, vocab_size=2000, image_size=128, patch_size=32),
    "opt": blip2("opt"),
    "t5": blip2("t5"),
    "chat": PublishedVlm("gemma3", Sizes(text=TINY.text | WIDER, vision=SMALL, std=None, vocabulary=2000)),
}


@pytest.fixture(scope="module")
def rows(phantoms):
    return list(rows_of_steps(str(phantoms), 1, 32, 16))


def with_values(model: nn.Module) -> nn.Module:
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    for buffer in model.buffers():
        buffer.zero_()
    return model


def measured(model: nn.Module, batch: dict[str, torch.Tensor], dtype: torch.dtype) -> int:
    """The most bytes that PyTorch had allocated at a time, the model and the batch included."""
    own = {
        tensor.data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in (*model.parameters(), *model.buffers(), *tree_leaves(batch))
    }
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        train_steps(model, batch, dtype)
    now = peak = sum(own.values())
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_counted_bytes_are_those_that_training_takes(rows, name, dtype):
    model, _, collate = memory.build(CONFIGS[name], torch.float32, rows)
    batch = collate(rows)
    model = with_values(model)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    counted = count(train_steps, model, batch, dtype)
    assert counted == pytest.approx(measured(model, batch, dtype), rel=0.02)
    assert counted > 1.3 * weights  # or it would be a test of weights


def test_layer_norm_of_fp16_is_computed_in_fp32_as_on_a_gpu():
    def normalize(layer, batch, dtype):
        with torch.autocast("cpu", dtype):
            return layer(batch["states"])

    batch = {"states": torch.zeros(100, 64, dtype=torch.float16)}
    own = 100 * 64 * 2 + 2 * 64 * 4  # states, weight and bias
    gpu = own + 2 * 100 * 64 * 4 + 2 * 100 * 4  # states in FP32 before and after; mean and deviation of each
    assert count(normalize, nn.LayerNorm(64), batch, torch.float16, AsOnGpu()) == gpu
    assert count(normalize, nn.LayerNorm(64), batch, torch.float16) < gpu


def test_attention_keeps_no_probabilities_and_a_mask_of_a_multiple_of_16():
    def attend(_, batch, dtype):
        with torch.autocast("cpu", dtype):
            query = batch["query"]
            return nn.functional.scaled_dot_product_attention(query, query, query, batch["mask"])

    batch = {"query": torch.zeros(2, 4, 40, 8, dtype=torch.float16), "mask": torch.zeros(2, 1, 40, 40)}
    batch["query"].requires_grad_()
    own = 2 * 4 * 40 * 8 * 2 + 2 * 40 * 40 * 4
    mask = 2 * 40 * 48 * 2
    output, sums, seeds = 2 * 4 * 40 * 8 * 2, 2 * 4 * 64 * 4, 2 * 8
    expected = own + mask + output + sums + seeds
    assert count(attend, nn.Identity(), batch, torch.float16, AsOnGpu()) == expected


def test_in_4bit_frozen_layers_take_a_quarter_and_return_the_type_they_get():
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="pip install -e '.[quantization]'")
    layer = bitsandbytes.nn.Linear4bit(128, 256, False, torch.float16, compress_statistics=False, quant_type="nf4").to(
        "cpu"
    )
    state = layer.weight.quant_state
    assert layer.weight.nbytes + state.absmax.nbytes == 128 * 256 * memory.BYTES_4BIT

    half = {"dtype": torch.float16, "bias": False}
    model = nn.ModuleDict({"fc1": nn.Linear(128, 256, **half), "qformer": nn.Linear(128, 256, **half)})
    assert memory.quantize(model) == 128 * 256 * (2 - memory.BYTES_4BIT) - 128 * 256 * 2
    states = torch.zeros(3, 128)
    with torch.autocast("cpu", torch.float16):
        assert model["fc1"](states).dtype == layer(states).dtype == torch.float32
        assert model["qformer"](states).dtype == torch.float16


def test_published_models_train_with_dropout_in_their_precision():
    models = memory.published_models()
    config, dtype = models["blip2-opt-6.7b"]
    assert (config.text_config.hidden_size, config.text_config.ffn_dim, dtype) == (4096, 16384, torch.float16)
    assert models["blip2-flan-t5-xl"][1] == torch.bfloat16
    assert config.qformer_config.hidden_dropout_prob == 0.1


def test_smaller_batches_and_4bit_take_less(rows):
    figures = memory.count_model(CONFIGS["opt"], torch.float16, rows, [16, 4])
    features, largest, smallest = figures["FP16"]
    assert largest > smallest > features > 0
    assert figures["4bit"][0] < features


def test_table_has_a_line_for_each_precision(phantoms, monkeypatch, capsys):
    def count_model(config, dtype, rows, batch_sizes):
        assert (len(rows), batch_sizes) == (rows_of_training, [8, 4])
        if isinstance(config, ViltConfig):
            return {"FP16": [None, 2.06e9, 1e9]}
        return {"bf16": [1e9, 8e9, 7e9], "4bit": [5e8, 4e9, 3e9]}

    rows_of_training = len(load_splits(str(phantoms), "train")["train"])
    monkeypatch.setattr(memory, "count_model", count_model)
    models = ["--models", "ViLT-B/32", "blip2-flan-t5-xl"]
    memory.main(["--dataset", str(phantoms), "--batch_sizes", "8", "4", *models])
    assert capsys.readouterr().out.splitlines() == [
        "| GB | features | batch 8 | batch 4 |",
        "|---|---|---|---|",
        "| ViLT-B/32, FP16 | - | 2.1 | 1.0 |",
        "| blip2-flan-t5-xl, bf16 | 1.0 | 8.0 | 7.0 |",
        "| blip2-flan-t5-xl, 4bit | 0.5 | 4.0 | 3.0 |",
    ]
