"""modeling.parts.relevance: the published formula on small matrices, and maps without any relevance."""

import numpy as np
import torch

from modeling.parts.relevance import cross_relevance, gradient_weighted, normalized_heat
from tests.modeling.published_formula import published_cross_relevance


def test_layers_without_and_with_cross_attention_alternate():
    rng = np.random.default_rng(0)
    first, second, third = rng.random((3, 2, 2))
    image = rng.random((2, 2, 3))
    layers = [[first, image[0]], [second], [third, image[1]]]
    relevance = cross_relevance([[torch.tensor(part) for part in layer] for layer in layers])
    np.testing.assert_allclose(relevance.numpy(), published_cross_relevance(layers))


def test_products_too_small_for_half_precision_are_not_lost():
    attention = torch.full((1, 2, 1, 3), 1e-3, dtype=torch.float16, requires_grad=True)
    factor = torch.tensor([1e-5, 2e-5, 3e-5], dtype=torch.float16)
    weighted = gradient_weighted((attention * factor).sum(), {"layer": attention})["layer"]
    assert weighted.dtype == torch.float32
    np.testing.assert_allclose(weighted[0, 0], np.float16(1e-3) * factor.float().numpy(), rtol=1e-6)


def test_no_relevance_is_a_uniform_map():
    assert np.array_equal(normalized_heat(torch.zeros(2, 4)), np.full((2, 4), 0.125, np.float32))
    assert np.array_equal(normalized_heat(torch.full((2, 4), torch.nan)), np.full((2, 4), 0.125, np.float32))
