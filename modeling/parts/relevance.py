"""Where a model looked when it answered: gradient-weighted attention over its image tokens.

After Chefer, Gur, Wolf 2021, "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
Transformers" (https://arxiv.org/abs/2103.15679); the equations named here are its.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


@contextmanager
def recorded_attention(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, torch.Tensor]]:
    """Collects the attention probabilities ``(B, heads, to, from)`` of attention modules of transformers.

    The autograd graph behind them is there even where all parameters are frozen. Modules that choose their kernel by
    their config need `eager_attention` around them.
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
def eager_attention(network: Any) -> Iterator[None]:
    """Makes a network of transformers compute attention step by step, as its fused kernels give no probabilities."""
    implementation = network.config._attn_implementation  # transformers has a setter but no public getter
    network.set_attn_implementation("eager")
    try:
        yield
    finally:
        network.set_attn_implementation(implementation)


def gradient_weighted(target: torch.Tensor, attention: dict[nn.Module, torch.Tensor]) -> dict[nn.Module, torch.Tensor]:
    """A_bar ``(B, to, from)`` of each attention module: the mean over heads of max(gradient * A, 0) (eq. 5).

    No parameter gets a gradient.

    Args:
        target: the number to explain; of a batch, the sum over its questions.
        attention: A of each module, ``(B, heads, to, from)``.
    """
    gradients = torch.autograd.grad(target, list(attention.values()))
    pairs = zip(attention.items(), gradients, strict=True)
    return {  # in half precision the products of small numbers are 0
        module: (gradient.float() * part.detach().float()).clamp_min(0).mean(1) for (module, part), gradient in pairs
    }


def self_relevance(layers: Sequence[torch.Tensor]) -> torch.Tensor:
    """R of self-attention layers ``(B, tokens, tokens)``: what each token took from each, R + A_bar R (eq. 6).

    Args:
        layers: A_bar of each, ``(B, tokens, tokens)``, or ``(B, n, tokens)`` where only the first n tokens attend.
    """
    relevance = torch.eye(layers[0].shape[-1]).to(layers[0]).repeat(len(layers[0]), 1, 1)
    for layer in layers:
        relevance[:, : layer.shape[1]] += layer @ relevance
    return relevance


def cross_relevance(layers: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
    """R of queries to image tokens ``(queries, image tokens)`` (eqs. 6 to 10).

    Each layer attends to the queries, and some layers then to the image. Image tokens attend to nothing, so their own
    R is the identity.

    Args:
        layers: A_bar of each: to the queries ``(queries, queries)``, then to the image ``(queries, image tokens)`` in
            the first layer and where there is cross-attention.
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


def normalized_heat(relevance: torch.Tensor) -> np.ndarray:
    """Relevance ``(rows, columns)`` as float32 that sums to 1. It is uniform where the sum is 0 or not finite."""
    heat = relevance.double().cpu().numpy()
    total = heat.sum()
    heat = heat / total if 0 < total < np.inf else np.full(heat.shape, 1 / heat.size)
    return heat.astype(np.float32)
