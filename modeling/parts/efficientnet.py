"""EfficientNet-Lite0 in two parts: frozen up to a map, trained from there on.

The package that defines the network keeps its layers under private names, so these are used here.
"""

import importlib.util
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers.image_utils import PILImageResampling

from modeling.parts.packages import VISION_WEIGHTS, missing_package, read_part
from processing.images import open_image
from processing.phantom.files import cached_phantoms

NETWORK_PACKAGE = "efficientnet-lite-pytorch"
PREPROCESSING = {  # (pixel - 127) / 128, as EfficientNet-Lite was trained
    "image_mean": [127 / 255] * 3,
    "image_std": [128 / 255] * 3,
    "resample": PILImageResampling.BICUBIC,
}


@dataclass(kw_only=True)
class EfficientNetFields:
    """What the config of a starter says of its image network.

    Args:
        vision_network: name of the EfficientNet-Lite whose maps are the image tokens.
        frozen_stride: stride of the network's map up to which it is frozen. This map and the coarser ones are the
            image tokens, each folded to the grid of `patch_size`.
        max_rotation: largest rotation of an image in training, in degrees.
        max_scaling: largest change of its zoom.
        max_shift: largest shift, in shares of its side.
    """

    vision_network: str = "efficientnet-lite0"
    frozen_stride: int = 8
    max_rotation: float = 10.0
    max_scaling: float = 0.12
    max_shift: float = 0.06


class FrozenEfficientNet(nn.Module):
    """An EfficientNet-Lite up to the last map of `frozen_stride`.

    It never trains and always runs in fp32, so its features are the same wherever they are computed. They are rounded
    to half precision because that is how they are kept.
    """

    def __init__(self, network: Any, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = nn.ModuleList(blocks)

    def train(self, mode: bool = True) -> "FrozenEfficientNet":
        """The network stays in evaluation mode: else the batches of a run would move its statistics."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images ``(B, 3, H, W)`` to features ``(B, channels, H / stride, W / stride)``."""
        with torch.autocast(pixel_values.device.type, enabled=False):
            hidden = self.stem(pixel_values.float().contiguous(memory_format=torch.channels_last))
            for block in self.blocks:
                hidden = block(hidden)
        return hidden.contiguous().half()


class TrainedEfficientNet(nn.Module):
    """The rest of the network, which trains. It stacks the maps at several strides, folded to one grid.

    Args:
        blocks: of the network.
        folds: channels of each map, and how many of its places lie on a side of a place of the grid.
        grid: places on a side.

    Its batch normalisation keeps the statistics of the pretraining, since those of a batch of few images are worse.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, blocks: Iterable[nn.Module], folds: Iterable[tuple[int, int]], grid: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.folds = list(folds)
        self.num_channels = num_channels = sum(channels * fold * fold for channels, fold in self.folds)
        self.grid = grid
        # Channels differ in scale by orders of magnitude. These statistics are fixed too.
        self.register_buffer("mean", torch.zeros(num_channels, 1, 1))
        self.register_buffer("std", torch.ones(num_channels, 1, 1))

    def train(self, mode: bool = True) -> "TrainedEfficientNet":
        """The network stays in evaluation mode, which fixes the statistics and not the weights."""
        return super().train(False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features ``(B, channels, h, w)`` of the frozen part to ``(B, num_channels, grid, grid)``."""
        maps: dict[int, torch.Tensor] = {}  # the last one of each size
        with torch.autocast(features.device.type, enabled=False):
            hidden = features.float().contiguous(memory_format=torch.channels_last)
            maps[hidden.shape[-1]] = hidden
            for block in self.blocks:
                hidden = self.run_block(block, hidden)
                maps[hidden.shape[-1]] = hidden
            folded = [nn.functional.pixel_unshuffle(part, size // self.grid) for size, part in maps.items()]
            return (torch.cat(folded, dim=1) - self.mean) / self.std

    @property
    def fine_channels(self) -> int:
        """Channels of what `unfold` returns."""
        return sum(channels * max(1, fold // 2) ** 2 for channels, fold in self.folds)

    def unfold(self, folded: torch.Tensor) -> torch.Tensor:
        """Maps on the grid ``(B, num_channels, grid, grid)`` to one twice as fine, ``(B, fine_channels, ...)``.

        What was folded there is unfolded. The map that has no finer places repeats its own.
        """
        parts = folded.split([channels * fold * fold for channels, fold in self.folds], dim=1)
        fine = []
        for part, (_, fold) in zip(parts, self.folds, strict=True):
            if fold == 1:
                fine.append(nn.functional.interpolate(part, scale_factor=2))
            else:
                fine.append(nn.functional.pixel_unshuffle(nn.functional.pixel_shuffle(part, fold), fold // 2))
        return torch.cat(fine, dim=1)

    @staticmethod
    def run_block(block: Any, hidden: torch.Tensor) -> torch.Tensor:
        """The block's own forward, with each normalisation inside the convolution before it."""
        activate = nn.functional.relu6
        wide = activate(_convolve(block._expand_conv, block._bn0, hidden))
        wide = activate(_convolve(block._depthwise_conv, block._bn1, wide))
        narrow = _convolve(block._project_conv, block._bn2, wide)
        return narrow + hidden if narrow.shape == hidden.shape else narrow


class WholeEfficientNet(nn.Module):
    """Both parts of a network that is frozen as a whole."""

    def __init__(self, frozen: FrozenEfficientNet, rest: TrainedEfficientNet) -> None:
        super().__init__()
        self.frozen = frozen
        self.rest = rest

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images ``(B, 3, H, W)`` to ``(B, num_channels, grid, grid)``."""
        return cast(torch.Tensor, self.rest(self.frozen(pixel_values)))


def _convolve(convolution: Any, norm: Any, hidden: torch.Tensor) -> torch.Tensor:
    """A convolution and the normalisation by fixed statistics after it, in one pass over the map."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    weight, bias = convolution.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
    stride = convolution.stride[0]
    padding = convolution.kernel_size[0] - stride  # "same" as in TensorFlow, for sides that the stride divides
    if padding % 2:
        hidden, padding = nn.functional.pad(hidden, [padding // 2, padding - padding // 2] * 2), 0
    if hidden.device.type == "cpu" and convolution.groups > 1 and stride == 1:
        return cast(torch.Tensor, _DepthwiseOnCpu.apply(hidden, weight, bias))
    return nn.functional.conv2d(hidden, weight, bias, stride, padding // 2, groups=convolution.groups)


class _DepthwiseOnCpu(torch.autograd.Function):
    """A depthwise convolution of stride 1 with a faster gradient.

    The gradient of its weights is the convolution of each map of the input by the gradient of the output. That is
    several times as fast as oneDNN's.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W)`` to the same shape by filters ``(C, 1, k, k)`` and a bias ``(C,)``."""
        ctx.save_for_backward(hidden, weight)
        return nn.functional.conv2d(hidden, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # type: ignore[override]  # torch names the arguments otherwise
        """The gradient of the output to the gradients of the three inputs."""
        hidden, weight = ctx.saved_tensors
        (count, channels, *sides), padding = hidden.shape, weight.shape[-1] // 2
        backward = torch.ops.aten.convolution_backward
        options = ((1, 1), (padding, padding), (1, 1), False, (0, 0), channels, (True, False, False))
        to_hidden, *_ = backward(gradient, hidden, weight, None, *options)
        maps, filters = hidden.reshape(1, -1, *sides), gradient.reshape(-1, 1, *sides)
        to_weights = nn.functional.conv2d(maps, filters, padding=padding, groups=count * channels)
        return to_hidden, to_weights.view(count, *weight.shape).sum(0), gradient.sum((0, 2, 3))


def efficientnet(config: Any) -> tuple[FrozenEfficientNet, TrainedEfficientNet]:
    """Both parts of an untrained network.

    Args:
        config: has `vision_network`, `frozen_stride`, `image_size` and `patch_size`.

    Raises:
        UserError: the package with its definition is missing.
    """
    if importlib.util.find_spec(NETWORK_PACKAGE.replace("-", "_")) is None:
        raise missing_package(NETWORK_PACKAGE)
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name(config.vision_network, image_size=None)  # pads for any image size
    channels, frozen, stride = {}, 0, 2  # of the last block at each stride; the stem has stride 2
    for count, block in enumerate(network._blocks, 1):
        stride *= int(np.ravel(block._block_args.stride)[0])  # a list in the first block of a stage
        if stride >= config.frozen_stride:
            channels[stride] = block._block_args.output_filters
        if stride == config.frozen_stride:
            frozen = count
    folds = [(count, config.patch_size // stride) for stride, count in channels.items()]
    grid = config.image_size // config.patch_size
    return (
        FrozenEfficientNet(network, network._blocks[:frozen]),
        TrainedEfficientNet(network._blocks[frozen:], folds, grid),
    )


def training_moves(top: nn.Module, features: torch.Tensor, config: EfficientNetFields) -> torch.Tensor | None:
    """Random moves of the images of a training step, ``(B, 2, 3)``; None where the rest of the network is frozen.

    A frozen one can't learn images by heart, and there moves cost the encoder what it knows of places.

    Args:
        top: the rest of the network.
        features: of the frozen part, ``(B, channels, h, w)``.
        config: sets how far images move.
    """
    if not any(p.requires_grad for p in top.parameters()):
        return None
    return random_moves(len(features), config, features.device)


def random_moves(count: int, config: EfficientNetFields, device: torch.device) -> torch.Tensor:
    """Affine moves of images that turn, zoom and shift them a little at random, ``(count, 2, 3)``.

    None mirrors an image: left must stay left.

    Args:
        count: of images.
        config: sets how far they move.
        device: of the result.
    """
    angle, scale, *shift = 2 * torch.rand(4, count, device=device) - 1
    angle, scale = angle * math.radians(config.max_rotation), 1 + scale * config.max_scaling
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    shift_x, shift_y = (2 * config.max_shift * part for part in shift)  # the sides run from -1 to 1
    rows = [torch.stack([cosine, -sine, shift_x], 1), torch.stack([sine, cosine, shift_y], 1)]
    return torch.stack(rows, 1)


def moved(maps: torch.Tensor, moves: torch.Tensor, padding_mode: str = "border") -> torch.Tensor:
    """Maps ``(B, channels, height, width)`` after affine moves ``(B, 2, 3)``.

    Args:
        padding_mode: of what comes in from outside, as `grid_sample` takes it.
    """
    grid = nn.functional.affine_grid(moves, list(maps.shape), align_corners=False)
    return nn.functional.grid_sample(maps.float(), grid, padding_mode=padding_mode, align_corners=False)


def load_efficientnet(vision: FrozenEfficientNet, top: TrainedEfficientNet, image_processor: Any) -> None:
    """Loads the pretrained weights without their ImageNet head, and sets the statistics of the maps.

    The statistics are of the phantom images, which have the grey values of CT, MRI and X-ray.
    """
    weights = torch.load(io.BytesIO(read_part(VISION_WEIGHTS)), weights_only=True)
    frozen_blocks = len(vision.blocks)
    lower, upper = vision.state_dict(), top.state_dict()
    stem = {"_conv_stem": 0, "_bn0": 1}
    for name, value in weights.items():
        part, _, rest = name.partition(".")
        if part in stem:
            lower[f"stem.{stem[part]}.{rest}"].copy_(value)
        elif part == "_blocks":
            number, _, rest = rest.partition(".")
            block = int(number)
            if block < frozen_blocks:
                lower[f"blocks.{block}.{rest}"].copy_(value)
            else:
                upper[f"blocks.{block - frozen_blocks}.{rest}"].copy_(value)
    phantoms = sorted((cached_phantoms() / "imgs").glob("*/source.jpg"))
    pixels = image_processor([open_image(image) for image in phantoms], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        features = torch.cat([top(vision(batch)) for batch in pixels.split(16)])
        top.mean.copy_(features.mean((0, 2, 3))[:, None, None])
        top.std.copy_(features.std((0, 2, 3))[:, None, None].clamp_min(1e-3))
