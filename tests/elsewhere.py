"""A device that is not there: torch's meta device, with numbers.

Tensors on it compute on the CPU, but have no float64, and meet no tensor of the CPU that has
dimensions: what would fail on a graphics processor fails here, and the results can be compared.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from upscale.diffusion import denoiser
from upscale.pipeline import generator, sampling, upscaler

PLACE = torch.device("meta")
_aten = torch.ops.aten
_MOVES = (_aten.to, _aten._to_copy, _aten.copy_, _aten._local_scalar_dense)


class Elsewhere(torch.Tensor):
    """A tensor on the device; `inner` has its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Elsewhere:
        if inner.dtype == torch.float64:
            raise TypeError("the device has no float64")
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=PLACE,
        )  # fmt: skip
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None) -> Any:
        return _carried_out(func, args, kwargs or {})


class There(TorchDispatchMode):
    """As long as it is entered, the device is there for what is made on it or moved to it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        return _carried_out(func, args, kwargs or {})


def _carried_out(func: Any, args: tuple, kwargs: dict) -> Any:
    leaves = tree_leaves((args, kwargs))
    there = [x for x in leaves if isinstance(x, Elsewhere)]
    named = [x for x in leaves if isinstance(x, torch.device)]
    if func is _aten.to.other:
        named = [args[1].device]
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    here = [x for x in tensors if not isinstance(x, Elsewhere) and x.dim()]
    if there and here and func.overloadpacket not in _MOVES:
        raise RuntimeError(f"{func}: tensors on two devices")

    def brought(x: Any) -> Any:
        if isinstance(x, torch.device):
            return torch.device("cpu")
        return x.inner if isinstance(x, Elsewhere) else x

    made = func(*tree_map(brought, args), **tree_map(brought, kwargs))
    if func.overloadpacket is _aten.copy_:
        return args[0]
    stays = named[0] == PLACE if named else bool(there)
    known = {id(x.inner): x for x in there}

    def taken(x: Any) -> Any:
        if not (stays and isinstance(x, torch.Tensor)):
            return x
        return known[id(x)] if id(x) in known else Elsewhere(x)

    return tree_map(taken, made)


def announce(monkeypatch) -> None:
    """Make --device elsewhere the name of it, for pictures that are enlarged or made."""
    monkeypatch.setattr(denoiser, "WITHOUT_FLOAT64", ("meta",))
    for room in (upscaler, generator):
        pick = room.pick_device
        monkeypatch.setattr(
            room,
            "pick_device",
            lambda name, pick=pick: PLACE if name == "elsewhere" else pick(name),
        )
    # torch knows no autocast for it, and no inference mode for what only looks like a tensor
    for room in (sampling, generator):
        monkeypatch.setattr(room, "autocast", lambda place, dtype: nullcontext(), raising=False)
    plain = torch.no_grad()(upscaler.Upscaler.run.__wrapped__)
    monkeypatch.setattr(upscaler.Upscaler, "run", plain)
