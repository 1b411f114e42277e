"""Trains the projector from what is seen to the language model: it runs at each step, and what is seen is kept."""

import copy
from contextlib import suppress
from typing import Any

import torch
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling.vlm.architectures import image_features
from processing.errors import UserError

TOWERS = ("vision_tower", "vision_model")  # names of what sees
PROJECTORS = ("multi_modal_projector", "connector")


def find_part(model: Any, names: tuple[str, ...]) -> str | None:
    """The name of the part of a model that has one of these names; None where it has none."""
    return next((name for name in names if name in model.model._modules), None)


def projector_name(model: Any, option: str) -> str:
    """The name of a model's projector.

    Raises:
        UserError: it has none of its own, and an option asks for one.
    """
    name = find_part(model, PROJECTORS)
    if name is None:
        raise UserError(f"{option} projector: a {model.config.model_type} has no projector of its own; leave it out.")
    return name


def has_trained_projector(model: Any) -> bool:
    """Whether what an adapter trains is in a model's projector."""
    name = find_part(model, PROJECTORS)
    part = None if name is None else getattr(model.model, name)
    return part is not None and any(p.requires_grad for p in part.parameters())


def cast_for_projector(model: Any) -> None:
    """Gives a projector that trains whole its states in its own precision, FP32, also over a base in half of it."""
    part = getattr(model.model, find_part(model, PROJECTORS) or "", None)
    if isinstance(part, ModulesToSaveWrapper):
        part.register_forward_pre_hook(_in_own_precision)


def _in_own_precision(wrapper: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    dtype = next(wrapper.modules_to_save.parameters()).dtype
    return tuple(states.to(dtype) for states in args)


class _EachLayer:
    """The same states, whichever layer is asked for."""

    def __init__(self, states: torch.Tensor) -> None:
        self.states = states

    def __getitem__(self, layer: int) -> torch.Tensor:
        return self.states


class KeptTower(nn.Module):
    """Stands in the place of what sees, and gives what that saw of an image."""

    states: torch.Tensor

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPooling:
        """What the tower saw, whatever it is shown."""
        return BaseModelOutputWithPooling(last_hidden_state=self.states, hidden_states=_EachLayer(self.states))


class TrainedProjector:
    """Makes features of images from what a model's tower saw of them.

    Args:
        model: whose tower is a `KeptTower`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.tower: KeptTower = getattr(model.model, find_part(model, TOWERS) or "")
        patch = model.config.vision_config.patch_size
        self.patch = patch if isinstance(patch, int) else max(patch)

    def __call__(self, vision_states: torch.Tensor, pixel_shape: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        """The features of one image, ``(1, image tokens, width)``.

        Args:
            vision_states: what the tower saw of it, ``(tiles, patches, tower width)``.
            pixel_shape: of the image's `pixel_values`.
            inputs: what else the model takes of the image.
        """
        self.tower.states = vision_states
        shape = [*pixel_shape.tolist()[:-2], self.patch, self.patch]
        pixels = vision_states.new_ones(1).expand(shape)  # counted, and never seen
        return image_features(self.model, {"pixel_values": pixels, **inputs})


class _Done(Exception):
    """The projector was reached."""


class _Reached(nn.Module):
    def forward(self, *_: Any) -> torch.Tensor:
        raise _Done


class _Watched:
    """The output of a tower, which notes what is taken of it."""

    def __init__(self, output: Any, taken: list[torch.Tensor]) -> None:
        self.output, self.taken = output, taken

    @property
    def last_hidden_state(self) -> torch.Tensor:
        self.taken.append(self.output.last_hidden_state)
        return self.taken[-1]

    @property
    def hidden_states(self) -> "_Watched":
        return self

    def __getitem__(self, layer: int) -> torch.Tensor:
        self.taken.append(self.output.hidden_states[layer])
        return self.taken[-1]


class _WatchedTower(nn.Module):
    def __init__(self, tower: nn.Module, taken: list[torch.Tensor]) -> None:
        super().__init__()
        self.tower, self.taken = tower, taken

    def forward(self, *args: Any, **options: Any) -> _Watched:
        return _Watched(self.tower(*args, **options), self.taken)


class SeenStates(nn.Module):
    """What a model's tower sees of an image, as its projector takes it.

    Args:
        model: whole; a `KeptTower` takes the tower's place.

    Raises:
        UserError: it has no tower of its own.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        name = find_part(model, TOWERS)
        assert name is not None  # where there is a projector there is a tower
        self.tower = getattr(model.model, name)
        self.names = name, projector_name(model, "--modules_to_save")
        self.inner = copy.copy(model.model)  # in which both are others
        self.inner._parameters = copy.deepcopy(model.model._parameters)  # they move on their own
        self.inner._modules = dict.fromkeys(model.model._modules)
        setattr(model.model, name, KeptTower())

    @torch.no_grad()
    def forward(self, pixels: dict[str, torch.Tensor]) -> torch.Tensor:
        """``(tiles, patches, tower width)`` of one image.

        Args:
            pixels: as `modeling.vlm.images.process_image` gives them.

        Raises:
            UserError: the projector reads several layers of the tower.
        """
        taken: list[torch.Tensor] = []
        self.inner._modules |= dict(zip(self.names, (_WatchedTower(self.tower, taken), _Reached()), strict=True))
        with suppress(_Done):
            self.inner.get_image_features(**pixels, return_dict=True)
        if len(taken) != 1:
            raise UserError("--modules_to_save projector: it reads several layers of what sees, which can't be kept.")
        return taken[0]
