"""Where a model looked when it answered: gradient-weighted attention over its image tokens.

After Chefer, Gur, Wolf 2021, "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
Transformers" (https://arxiv.org/abs/2103.15679); the equations named here are its.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import nn

from metrics.evidence import COLORS
from processing.errors import UserError


@contextmanager
def recorded_attention(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, torch.Tensor]]:
    """Collects the attention probabilities ``(B, heads, to, from)`` of each attention module of transformers, with the
    graph behind them, which is there even where all parameters are frozen.

    Modules that choose their kernel by their config need `plain_attention` around them.
    """
    found: dict[nn.Module, torch.Tensor] = {}

    def before(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        kwargs |= dict(zip(("hidden_states", "attention_mask"), args, strict=False))
        states = kwargs["hidden_states"]
        if not states.requires_grad:
            states = states.detach().requires_grad_()
        return (), kwargs | {"hidden_states": states, "output_attentions": True}

    def after(module: nn.Module, _: tuple, output: tuple) -> None:
        found[module] = output[1]

    hooks = [module.register_forward_pre_hook(before, with_kwargs=True) for module in modules]
    hooks += [module.register_forward_hook(after) for module in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def plain_attention(network: Any) -> Iterator[None]:
    """Makes a network of transformers compute attention in plain steps, as its fused kernels give no probabilities."""
    implementation = network.config._attn_implementation
    network.set_attn_implementation("eager")
    try:
        yield
    finally:
        network.set_attn_implementation(implementation)


def weighted(target: torch.Tensor, attention: dict[nn.Module, torch.Tensor]) -> dict[nn.Module, torch.Tensor]:
    """A_bar ``(B, to, from)`` of each attention module: the mean over heads of max(gradient * A, 0) (eq. 5).

    Args:
        target: the number to explain, of a batch the sum over its questions; no parameter gets a gradient of it.
        attention: A of each module, ``(B, heads, to, from)``.
    """
    gradients = torch.autograd.grad(target, list(attention.values()))
    pairs = zip(attention.items(), gradients, strict=True)
    return {module: (gradient * part.detach()).float().clamp_min(0).mean(1) for (module, part), gradient in pairs}


def self_relevance(layers: Sequence[torch.Tensor]) -> torch.Tensor:
    """R of self-attention layers ``(B, tokens, tokens)``: what each token took from each, R + A_bar R (eq. 6).

    Args:
        layers: A_bar of each, ``(B, tokens, tokens)``, or ``(B, n, tokens)`` where only the first n take anything.
    """
    relevance = torch.eye(layers[0].shape[-1]).to(layers[0]).repeat(len(layers[0]), 1, 1)
    for layer in layers:
        relevance[:, : layer.shape[1]] += layer @ relevance
    return relevance


def cross_relevance(layers: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
    """R of queries to image tokens ``(queries, image tokens)``, in layers that attend to the queries and then maybe to
    the image (eqs. 6 to 10). Image tokens attend to nothing here, so their own R is the identity.

    Args:
        layers: A_bar of each: to the queries ``(queries, queries)``, then, in the first layer and maybe in others, to
            the image ``(queries, image tokens)``.
    """
    identity = torch.eye(len(layers[0][0])).to(layers[0][0])
    own, image = identity, torch.zeros_like(layers[0][1])
    for to_queries, *crossing in layers:
        own, image = own + to_queries @ own, image + to_queries @ image
        for to_image in crossing:
            rest = own - identity
            shares = rest / rest.sum(1, keepdim=True).clamp_min(torch.finfo(rest.dtype).tiny)  # eqs. 8, 9
            image = image + (shares + identity).T @ to_image
    return image


def vilt_heat(model: Any, batch: dict[str, torch.Tensor], labels: Sequence[int]) -> list[np.ndarray]:
    """The heat maps of a ViLT or a starter, ``(rows, columns)`` of each question's image.

    Args:
        batch: questions as `ViltCollator` gives them.
        labels: of their answers, whose logits are explained.

    Raises:
        UserError: the model draws some patches of an image and skips others.
    """
    config = model.config
    if hasattr(model, "patches"):  # the starter: [CLS], image, text
        if "image_patches" not in batch:
            images = {name: batch[name] for name in ("pixel_values", "image_embeds") if name in batch}
            batch = {name: tensor for name, tensor in batch.items() if name not in images}
            batch["image_patches"] = model.patches(**images)
        encoder, start, (height, width) = model.encoder, 1, batch["image_patches"].shape[2:]
        sizes = [(height, width)] * len(labels)
    else:  # text, whose first token is [CLS], then the image with a [CLS] of its own
        if (config.max_image_length or 0) > 0:
            mend = "set max_image_length of its config to -1"
            raise UserError(f"The model draws some patches of the image and skips others, so it has no map; {mend}.")
        encoder, start = model.vilt.encoder, batch["input_ids"].shape[1] + 1
        mask = batch["pixel_mask"]  # each image fills the top left of its padding
        height, width = (side // config.patch_size for side in mask.shape[1:])
        sides = torch.stack([mask[:, :, 0].sum(1), mask[:, 0].sum(1)], 1) // config.patch_size
        sizes = [(rows, columns) for rows, columns in sides.tolist()]
    with recorded_attention([layer.attention.attention for layer in encoder.layer]) as attention:
        logits = model(**batch).logits
        target = logits[torch.arange(len(labels)), torch.tensor(labels, device=logits.device)].sum()
    relevance = self_relevance(list(weighted(target, attention).values()))
    maps = relevance[:, 0, start : start + height * width].unflatten(1, (height, width))
    return [heat_of(heat[:rows, :columns]) for heat, (rows, columns) in zip(maps, sizes, strict=True)]


def blip2_heat(model: Any, batch: dict[str, torch.Tensor]) -> list[np.ndarray]:
    """The heat maps of a BLIP-2, ``(rows, columns)``: where its Q-Former looked, weighed by the log-likelihood of the
    written answer.

    Args:
        batch: questions and their answers as `Blip2Collator` gives them, each with an image of its own.
    """
    qformer = model.qformer
    layers = [
        [part.attention for name, part in layer.named_children() if name in ("attention", "crossattention")]
        for layer in qformer.encoder.layer
    ]
    modules = [module for layer in layers for module in layer]
    with plain_attention(qformer), recorded_attention(modules) as attention:
        mean_loss = model(**batch).loss
    parts = weighted(-mean_loss * (batch["labels"] != -100).sum(), attention)
    maps = []
    for question in range(len(batch["image_index"])):
        relevance = cross_relevance([[parts[module][question] for module in layer] for layer in layers])
        relevance = relevance.sum(0)  # of all queries, whose gradients say how much each counts
        side = math.isqrt(len(relevance))
        maps.append(heat_of(relevance[-side * side :].view(side, side)))  # without the [CLS] that a ViT has first
    return maps


def heat_of(relevance: torch.Tensor) -> np.ndarray:
    """Relevance ``(rows, columns)`` as float32 that sums to 1; uniform where there is none, or no finite one."""
    heat = relevance.double().cpu().numpy()
    total = heat.sum()
    heat = heat / total if 0 < total < np.inf else np.full(heat.shape, 1 / heat.size)
    return heat.astype(np.float32)


def overlay(image: Image.Image, heat: np.ndarray, opacity: float = 0.6) -> Image.Image:
    """Lays a heat map over its image; the colder a place, the more of the plain image shows.

    Args:
        image: of any size, taken as RGB.
        heat: ``(rows, columns)`` over the whole image. Its coldest place gets no colour, its hottest the most.
        opacity: of the hottest place, 0 to 1.

    Raises:
        UserError: for another opacity.
    """
    if not 0 <= opacity <= 1:
        raise UserError(f"opacity {opacity}: must be from 0 to 1.")
    smooth = Image.fromarray(heat.astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    values = np.asarray(smooth) - heat.min()
    values = (values / max(heat.max() - heat.min(), np.finfo(np.float32).tiny)).clip(0, 1)
    colors = matplotlib.colormaps[COLORS](values)[..., :3] * 255
    alpha = opacity * values[..., None]
    plain = np.asarray(image.convert("RGB"))
    return Image.fromarray(np.round(plain * (1 - alpha) + colors * alpha).astype(np.uint8))
