"""Counts the memory of a GPU for `benchmarks.memory`: computes on tensors without values, and adds up their bytes."""

import copy
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from peft.helpers import disable_input_dtype_casting
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

aten = torch.ops.aten
IN_FP32 = {"layer_norm", "cross_entropy", "binary_cross_entropy_with_logits", "pow", "rsqrt"}
Batch = Mapping[str, Any]  # tensors, and lists of them


class MemoryCounter(TorchDispatchMode):
    """Counts the bytes of all tensors that are made, while they live.

    Two operations of the models depend on values, which tensors without values can't tell.

    Args:
        chosen: how many places of a mask are True where it chooses places, as that of the answers' tokens does.
        grid: rows and columns of patches of every image.

    Attributes:
        now, peak: bytes.
    """

    def __init__(self, chosen: int = 0, grid: int = 0) -> None:
        super().__init__()
        self.chosen, self.grid = chosen, grid
        self.now = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._local_scalar_dense.default:
            return self.grid
        if func is aten.unique_dim.default:
            sizes = args[0]
            result: Any = sizes[:1].clone(), sizes.new_zeros(len(sizes)), sizes.new_zeros(1)
        else:
            if func is aten.index.Tensor:
                args = (args[0], [place for index in args[1] for place in self._places(index)])
            result = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self.count, result)
        return result

    def _places(self, index: torch.Tensor | None) -> list[torch.Tensor | None]:
        if index is None or index.dtype != torch.bool:
            return [index]
        return [index.new_zeros(self.chosen, dtype=torch.int64) for _ in range(index.ndim)]

    def count(self, tensor: torch.Tensor) -> None:
        """Counts a tensor that was made before."""
        storage = tensor.untyped_storage()
        if storage not in self._known:
            size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            self._known[storage] = weakref.ref(storage, lambda _: self._free(size))

    def _free(self, size: int) -> None:
        self.now -= size


class AsOnGpu(TorchFunctionMode):
    """Computes on CPU tensors in the types of a GPU's autocast, and attends as its memory-efficient kernel does.

    A GPU computes `IN_FP32` in FP32 and a CPU does not:
    https://docs.pytorch.org/docs/stable/amp.html#autocast-op-reference
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention:
            return _attend(*args, **kwargs)
        if torch.is_autocast_enabled("cpu") and getattr(func, "__name__", "") in IN_FP32:
            args, kwargs = tree_map_only(torch.Tensor, _fp32, (args, kwargs))
        return func(*args, **kwargs)


def _fp32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    assert not enable_gqa  # none of the models has fewer keys than queries
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    query, key, value = (states.to(dtype) for states in (query, key, value))
    if attn_mask is not None:
        mask, width = attn_mask.to(dtype), attn_mask.shape[-1]
        if width % 16:  # the kernel reads 16 at a time
            mask = nn.functional.pad(mask, (0, -width % 16))[..., :width]
        attn_mask = mask.expand(*query.shape[:3], width)
    saves = torch.is_grad_enabled() and any(states.requires_grad for states in (query, key, value))
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, saves, dropout_p, is_causal, scale=scale
    )[0]


def train_steps(model: nn.Module, batch: Batch, dtype: torch.dtype) -> None:
    """Two steps as the Trainer makes them; the second finds the optimizer's states.

    Args:
        dtype: of autocast; FP32 for none.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)
    for _ in range(2):
        half = dtype != torch.float32
        with torch.autocast("cpu", dtype, enabled=half), disable_input_dtype_casting(model, half):
            loss = model(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def compute_features(network: nn.Module, pixels: Batch, _: torch.dtype) -> None:
    """The features of a batch of images."""
    network(**pixels)


def count(work: Callable, model: nn.Module, batch: Batch, dtype: torch.dtype, *modes: Any) -> int:
    """The most bytes that a model, a batch and what is computed of them take at a time.

    Args:
        work: `train_steps` or `compute_features`.
        model: on any device, the meta device too; it stays as it is.
        batch: on the CPU.
        dtype: as for `train_steps`.
        modes: `AsOnGpu()` for the bytes of a GPU.
    """
    chosen = int((batch["labels"] != -100).sum()) if "labels" in batch else 0
    grid = batch["pixel_values"].shape[-1] // model.config.patch_size if "pixel_mask" in batch else 0
    with FakeTensorMode() as fake, ExitStack() as stack:
        model = _without_values(model)
        batch = tree_map_only(torch.Tensor, fake.from_tensor, dict(batch))
        counter = MemoryCounter(chosen, grid)
        for tensor in (*model.parameters(), *model.buffers(), *tree_leaves(batch)):
            counter.count(tensor)
        for mode in (counter, *modes):
            stack.enter_context(mode)
        work(model, batch, dtype)
    return counter.peak


def _without_values(model: nn.Module) -> nn.Module:
    """A copy of tensors that have no values, where `FakeTensorMode` is on."""
    copies: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        empty = torch.empty(tensor.shape, dtype=tensor.dtype)
        copies[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(model, copies)
