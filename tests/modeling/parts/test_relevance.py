"""modeling.parts.relevance: the published formula on small matrices, and maps without any relevance."""

import numpy as np
import torch

from modeling.parts.relevance import cross_relevance, normalized_heat
from tests.modeling.published_formula import published_cross_relevance


def test_layers_without_and_with_cross_attention_alternate():
    rng = np.random.default_rng(0)
    first, second, third = rng.random((3, 2, 2))
    image = rng.random((2, 2, 3))
    layers = [[first, image[0]], [second], [third, image[1]]]
    relevance = cross_relevance([[torch.tensor(part) for part in layer] for layer in layers])
    np.testing.assert_allclose(relevance.numpy(), published_cross_relevance(layers))


def test_no_relevance_is_a_uniform_map():
    assert np.array_equal(normalized_heat(torch.zeros(2, 4)), np.full((2, 4), 0.125, np.float32))
    assert np.array_equal(normalized_heat(torch.full((2, 4), torch.nan)), np.full((2, 4), 0.125, np.float32))
