"""modeling.parts.efficientnet: its parts compute what the package does, and training transforms images a little."""

import pytest
import torch

from modeling.parts.efficientnet import efficientnet, random_affine
from modeling.vilt.starter import ViltStarterConfig


@pytest.mark.parametrize("image_size", [224, 288])
def test_upper_half_computes_and_learns_what_its_package_does(image_size):
    torch.manual_seed(0)
    config = ViltStarterConfig(image_size=image_size, patch_size=32)
    network = efficientnet(config)[1].train()
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.uniform_(-0.1, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
    hidden = torch.randn(2, 40, image_size // 8, image_size // 8)
    maps = {hidden.shape[-1]: hidden}
    for block in network.blocks:
        hidden = block(hidden)
        maps[hidden.shape[-1]] = hidden
    grid = image_size // 32
    expected = torch.cat([torch.nn.functional.pixel_unshuffle(m, side // grid) for side, m in maps.items()], 1)
    found = network(next(iter(maps.values())))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    learned = [p for p in network.parameters() if p.requires_grad]
    assert len(learned) == 9 * len(network.blocks), "three convolutions and normalisations"
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad((out * weights).sum(), learned) for out in (expected, found)]
    for one, other in zip(*gradients, strict=True):
        assert (one - other).norm() < 1e-2 * one.norm()  # a rounding may turn a ReLU on


def test_random_affine_never_mirrors_an_image():
    torch.manual_seed(0)
    features = torch.zeros(200, 1, 28, 28)
    features[..., 4:9] = 1.0  # a bar on the left
    moved = random_affine(features, ViltStarterConfig())
    assert (moved[..., :14].sum((1, 2, 3)) > 5 * moved[..., 14:].sum((1, 2, 3))).all()
    centre = (moved.sum((1, 2)) * torch.arange(28)).sum(1) / moved.sum((1, 2, 3))
    assert 0.3 < centre.std() < 2.0
