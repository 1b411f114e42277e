"""ViLT for question answering, made deterministic and fast."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn
from transformers import ViltConfig, initialization
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.vilt.modeling_vilt import ViltEmbeddings, ViltSelfAttention

from modeling.parts.evidence import GRID, EvidenceHead
from modeling.parts.minilm import sentence_vectors
from modeling.vilt.evidence import AnswerEvidence


class DeterministicViltEmbeddings(ViltEmbeddings):
    """ViLT's embeddings without its random draws: patches stay in grid order and padding is masked, not sampled.

    The stock class shuffles the patches of each image by `torch.multinomial`. Attention does not depend on their
    order, so the outputs are the same up to rounding, and now the same each time.
    """

    def visual_embed(
        self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor, max_image_length: int = -1
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Embeds images.

        Args:
            pixel_values: ``(B, 3, H, W)``.
            pixel_mask: ``(B, H, W)``, 1 for real pixels; each image fills the top left of its padding.
            max_image_length: a positive number samples that many patches, as the stock class does.

        Returns:
            Embeddings ``(B, 1 + patches, hidden_size)``, their mask ``(B, 1 + patches)`` and None.
        """
        if max_image_length is not None and max_image_length > 0:
            return super().visual_embed(pixel_values, pixel_mask, max_image_length)
        patches = self.patch_embeddings(pixel_values)  # (B, D, h, w)
        height, width = patches.shape[2:]
        mask = nn.functional.interpolate(pixel_mask[:, None].float(), size=(height, width)).long()[:, 0]  # (B, h, w)
        grid = self.config.image_size // self.config.patch_size
        positions = self.position_embeddings[:, 1:].transpose(1, 2).reshape(1, -1, grid, grid)

        sizes = torch.stack([mask[:, :, 0].sum(1), mask[:, 0].sum(1)], dim=1)  # (B, 2) in patches
        distinct, which = sizes.unique(dim=0, return_inverse=True)
        resized = [
            nn.functional.pad(
                nn.functional.interpolate(positions, size=(h, w), mode="bilinear", align_corners=True),
                (0, width - w, 0, height - h),
            )
            for h, w in distinct.tolist()
        ]
        patches = patches + torch.cat(resized)[which]

        cls_token = (self.cls_token + self.position_embeddings[:, :1]).expand(len(patches), -1, -1)
        embeddings = torch.cat([cls_token, patches.flatten(2).transpose(1, 2)], dim=1)
        mask = torch.cat([mask.new_ones(len(mask), 1), mask.flatten(1)], dim=1)
        return self.dropout(embeddings), mask, None


class SdpaViltSelfAttention(ViltSelfAttention):
    """ViLT's attention through PyTorch's fused kernel, which never holds the matrix of probabilities."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, ...]:
        """Tokens ``(B, T, D)`` to tokens ``(B, T, D)``; `output_attentions` takes the stock class's way."""
        if output_attentions:
            return super().forward(hidden_states, attention_mask, output_attentions)
        query, key, value = queries_keys_values(self, hidden_states, hidden_states)
        if attention_mask is not None:
            attention_mask = attention_mask.to(query.dtype)
        context = nn.functional.scaled_dot_product_attention(
            query, key, value, attention_mask, dropout_p=self.dropout.p if self.training else 0.0
        )
        return (context.transpose(1, 2).flatten(2),)


def queries_keys_values(
    attention: ViltSelfAttention, to: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The heads of an attention layer, each ``(B, heads, tokens, head size)``.

    Args:
        to: tokens that attend ``(B, Q, D)``.
        tokens: what they attend to ``(B, T, D)``.
    """
    states = attention.query(to), attention.key(tokens), attention.value(tokens)
    query, key, value = (part.unflatten(-1, (-1, attention.attention_head_size)).transpose(1, 2) for part in states)
    return query, key, value


class ViltForQuestionAnswering(transformers.ViltForQuestionAnswering):
    """The transformers class, same weights and same outputs, made deterministic and fast."""

    # Its forward takes any keyword and ignores it; without this the Trainer believes that it scales the loss itself
    # and does not divide by the number of accumulated batches.
    accepts_loss_kwargs = False

    def __init__(self, config: ViltConfig) -> None:
        super().__init__(config)
        self.vilt.embeddings = _replaced(self.vilt.embeddings, DeterministicViltEmbeddings, config)
        for layer in self.vilt.encoder.layer:
            layer.attention.attention = _replaced(layer.attention.attention, SdpaViltSelfAttention, config)
        self.evidence: AnswerEvidence | None = None
        if getattr(config, "evidence_labels", None):
            self.evidence = AnswerEvidence(config, config.hidden_size, config.hidden_size, GRID)
        self._no_split_modules = {
            "ViltLayer"
        }  # what FSDP shares out; the stock names are of classes that are replaced

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, EvidenceHead):
            initialization.zeros_(module.places)
        super()._init_weights(module)

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        pixel_values: Any = None,
        pixel_mask: Any = None,
        labels: torch.Tensor | None = None,
        evidence: dict[str, torch.Tensor] | None = None,
        **others: Any,
    ) -> SequenceClassifierOutput:
        """As the stock class; `evidence` is what the evidence head is to find, of `modeling.vilt.evidence`."""
        batch = {"pixel_values": pixel_values, "pixel_mask": pixel_mask, "labels": labels, **others}
        if self.evidence is None or evidence is None:
            return super().forward(input_ids, attention_mask, **batch)
        output = super().forward(input_ids, attention_mask, output_hidden_states=True, return_dict=True, **batch)
        places = self._embed_places(output.hidden_states[-1], pixel_mask)
        questions = sentence_vectors(self.text_states(input_ids, attention_mask), attention_mask)
        loss = output.loss + self.evidence.loss(places, questions, evidence, evidence["rows"])
        return SequenceClassifierOutput(loss=loss, logits=output.logits)

    def text_states(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The word embeddings of texts ``(B, L)``, ``(B, L, hidden_size)``."""
        return self.get_input_embeddings()(input_ids).detach()

    def evidence_inputs(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, pixel_mask: torch.Tensor, **batch: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the evidence head needs of questions, which have an image each; arguments as for `forward`.

        Returns:
            What it sees of the images ``(B, width, grid, grid)``, the vectors of the questions ``(B, hidden_size)``,
            and the image of each ``(B,)``.
        """
        states = self.vilt(input_ids, attention_mask, pixel_mask=pixel_mask, output_hidden_states=True, **batch)
        places = self._embed_places(states.hidden_states[-1], pixel_mask)
        vectors = sentence_vectors(self.text_states(input_ids, attention_mask), attention_mask)
        return places, vectors, torch.arange(len(input_ids), device=input_ids.device)

    def _embed_places(self, states: torch.Tensor, pixel_mask: torch.Tensor) -> torch.Tensor:
        """The last states of all tokens ``(B, T, hidden_size)`` to what the evidence head sees of the images."""
        assert self.evidence is not None
        side = self.config.patch_size
        height, width = (pixels // side for pixels in pixel_mask.shape[1:])
        tokens = self.vilt.layernorm(states[:, -height * width :]).transpose(1, 2).unflatten(2, (height, width))
        sizes = torch.stack([pixel_mask[:, :, 0].sum(1), pixel_mask[:, 0].sum(1)], dim=1) // side
        grid = (self.evidence.head.grid,) * 2
        maps = [  # each image fills the top left of its padding
            nn.functional.interpolate(one[None, :, :h, :w], size=grid, mode="bilinear", align_corners=False)
            for one, (h, w) in zip(tokens, sizes.tolist(), strict=True)
        ]
        return self.evidence.head.embed_images(torch.cat(maps))


def _replaced(stock: nn.Module, subclass: Callable[[ViltConfig], nn.Module], config: ViltConfig) -> nn.Module:
    """A module of the subclass with the parts of the stock one."""
    with torch.device("meta"):  # no weights, so nothing is drawn that a seed would not expect
        module = subclass(config)
    for name, part in (*stock.named_children(), *stock.named_parameters(recurse=False)):
        setattr(module, name, part)
    return module
