"""modeling.vilt.network: the model against the stock class."""

import pytest
import torch
import transformers
from transformers import ViltConfig

from modeling.vilt.checkpoints import build_model
from modeling.vilt.family import build_trainer
from modeling.vilt.network import ViltForQuestionAnswering
from modeling.vilt.scratch import SIZES
from tests.modeling.vilt.arguments import arguments


def tiny(num_labels: int = 5, **changes) -> ViltConfig:
    return ViltConfig(**SIZES["tiny"], vocab_size=50, num_labels=num_labels, initializer_range=0.3, **changes)


def batch_of(sizes: list[tuple[int, int]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Images of the given (height, width) padded to the largest, with questions of 7 tokens."""
    generator = torch.Generator().manual_seed(seed)
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    mask = torch.zeros(len(sizes), height, width, dtype=torch.long)
    for i, (h, w) in enumerate(sizes):
        mask[i, :h, :w] = 1
    pixels = torch.randn(len(sizes), 3, height, width, generator=generator) * mask[:, None]
    ids = torch.randint(5, 50, (len(sizes), 7), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels, "pixel_mask": mask}


@pytest.mark.parametrize(
    "sizes",
    [[(64, 64)] * 3, [(64, 96)] * 2, [(64, 96), (96, 64), (32, 48)], [(64, 64), (48, 64)]],
    ids=["square", "wide", "all-different", "one-shorter"],
)
def test_logits_equal_the_stock_class(sizes):
    torch.manual_seed(0)
    ours = ViltForQuestionAnswering(tiny()).eval()
    stock = transformers.ViltForQuestionAnswering(ours.config).eval()
    stock.load_state_dict(ours.state_dict())
    batch = batch_of(sizes)
    with torch.no_grad():
        expected, logits = stock(**batch).logits, ours(**batch).logits
    assert logits.std() > 0.1  # else anything would be equal
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_gradients_equal_the_stock_class():
    torch.manual_seed(0)
    ours = ViltForQuestionAnswering(tiny())
    stock = transformers.ViltForQuestionAnswering(ours.config)
    stock.load_state_dict(ours.state_dict())
    batch = batch_of([(64, 96), (96, 64), (64, 64)]) | {"labels": torch.eye(5)[:3]}
    for model in (ours, stock):
        model(**batch).loss.backward()
    for (name, mine), theirs in zip(ours.named_parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-3, msg=name)


def test_attentions_are_returned_as_the_stock_class_returns_them():
    torch.manual_seed(0)
    ours = ViltForQuestionAnswering(tiny()).eval()
    stock = transformers.ViltForQuestionAnswering(ours.config).eval()
    stock.load_state_dict(ours.state_dict())
    batch = batch_of([(64, 64)])
    mine, theirs = (model(**batch, output_attentions=True).attentions for model in (ours, stock))
    assert len(mine) == len(theirs) == 2
    # The stock class shuffles the patches, which leaves the weights from [CLS] (token 7) to the text in their order.
    torch.testing.assert_close(mine[1][:, :, 7, :8], theirs[1][:, :, 7, :8], atol=1e-5, rtol=1e-4)


def test_forward_consumes_no_random_state_and_repeats_to_the_bit():
    model = ViltForQuestionAnswering(tiny()).eval()
    batch = batch_of([(64, 64), (48, 64)])
    state = torch.random.get_rng_state()
    first = model(**batch).logits
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(model(**batch).logits, first)


def test_patches_are_sampled_where_the_config_asks_for_it():
    model = ViltForQuestionAnswering(tiny(max_image_length=6)).eval()
    hidden = model(**batch_of([(64, 64)] * 2), output_hidden_states=True).hidden_states[-1]
    assert hidden.shape == (2, 7 + 1 + 6, 32)


def test_accumulated_batches_give_the_gradient_of_one_large_batch(dataset, tmp_path):
    gradients = []
    for size, steps in ((8, 1), (4, 2)):
        torch.manual_seed(0)
        args = arguments(
            tmp_path,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_steps=1,
            learning_rate=0.1,
            optim="sgd",
            max_grad_norm=0,
            lr_scheduler_type="constant",
            save_strategy="no",
            eval_strategy="no",
            disable_tqdm=True,
        )
        model, processor = build_model(args, dataset)
        before = model.classifier[-1].weight.detach().clone()
        build_trainer(args, model, processor, dataset).train()
        gradients.append(before - model.classifier[-1].weight.detach())
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)
