"""modeling.parts.efficientnet: its parts compute what the package does, and training transforms images a little."""

import pytest
import torch

from modeling.parts.efficientnet import efficientnet, moved, random_moves
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


def test_moves_never_mirror_an_image():
    torch.manual_seed(0)
    features = torch.zeros(200, 1, 28, 28)
    features[..., 4:9] = 1.0  # a bar on the left
    after = moved(features, random_moves(len(features), ViltStarterConfig(), features.device))
    assert (after[..., :14].sum((1, 2, 3)) > 5 * after[..., 14:].sum((1, 2, 3))).all()
    centre = (after.sum((1, 2)) * torch.arange(28)).sum(1) / after.sum((1, 2, 3))
    assert 0.3 < centre.std() < 2.0


def test_unfolded_maps_lie_where_the_network_made_them():
    network = efficientnet(ViltStarterConfig())[1]
    sides = {28: 40, 14: 112, 7: 320}
    maps = {
        side: torch.arange(side * side).float().view(1, 1, side, side).repeat(1, n, 1, 1) for side, n in sides.items()
    }
    folded = torch.cat([torch.nn.functional.pixel_unshuffle(m, side // 7) for side, m in maps.items()], 1)
    fine = network.unfold(folded)
    assert fine.shape == (1, network.fine_channels, 14, 14) == (1, 4 * 40 + 112 + 320, 14, 14)
    of_8, of_16, of_32 = fine[0].split([160, 112, 320])
    assert of_8[:4, 3, 5].tolist() == [6 * 28 + 10, 6 * 28 + 11, 7 * 28 + 10, 7 * 28 + 11]
    assert of_16[0, 3, 5] == 3 * 14 + 5
    assert of_32[0, 3, 5] == 1 * 7 + 2
