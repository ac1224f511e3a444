"""Networks of other programs, as the library spandrel makes them of their tensors alone."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from upscale.nets.implicit import Place
from upscale.nets.liif import OneCall, cut
from upscale.nets.net import Config
from upscale.nets.vision import mended

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor

# Pixels of the input around a tile. No library says how far a network looks: those of convolutions
# alone look hundreds of pixels far in theory, and hardly past 30 in what they draw.
AROUND = 32
# Tiles start at multiples of it in the input, where the windows of attention (8 or 16) start, too.
GRID = 16
# Peak memory in parts of the tensors that are alive: measured 1.7 for ESRGAN, 2.2 for SwinIR.
WORKSPACE = 2.0
UNKNOWN = 4000  # bytes per pixel of the output where it could not be found out
_PROBE = 64  # side of the input for which memory is counted


@dataclass(frozen=True)
class OtherConfig(Config):
    """bytes_per_pixel: of the output, as `described` found it."""

    bytes_per_pixel: int = UNKNOWN


class OtherNet(OneCall):
    """A network for one magnification, behind the interface of ours.

    Grey ones get the three channels one by one; those that also take opacity get an opaque picture.
    """

    kind = "other"
    config_type = OtherConfig
    named: ClassVar = {}
    one_scale = True
    layout = torch.contiguous_format  # many view their features as rows, which need just this

    def __init__(self, config: OtherConfig, made: ImageModelDescriptor) -> None:
        super().__init__(config)
        self.model, self.made = made.model, made
        step = math.lcm(GRID, made.size_requirements.multiple_of)
        self.align, self.lr_margin = step * made.scale, step
        self.halo = AROUND * made.scale if made.tiling.name == "SUPPORTED" else None
        can = {torch.bfloat16: made.supports_bfloat16, torch.float16: made.supports_half}
        self.dtypes = (torch.float32, *(dtype for dtype, yes in can.items() if yes))
        self.bytes_per_pixel = config.bytes_per_pixel

    def answer(self, lr: Tensor, size: tuple[int, int], place: Place) -> Tensor:
        sr = torch.cat([self._enlarged(one) for one in lr.split(1)])
        return cut(sr, size, place, self.made.scale)

    def _enlarged(self, lr: Tensor) -> Tensor:
        """(1,3,h,w) -> (1,3,h*scale,w*scale), both in [-1,1]."""
        x = lr.add(1).div(2).clamp(0, 1).contiguous()
        kind = "xpu" if x.device.type == "xpu" else "cuda"
        gpus = [x.device] if x.device.type == kind else []
        with torch.random.fork_rng(
            gpus, device_type=kind
        ):  # some draw noise: the same for the same picture
            torch.manual_seed(0)
            if self.made.input_channels == 1:
                sr = torch.cat([self.made(channel) for channel in x.split(1, 1)], 1)
            elif self.made.input_channels == 4:
                sr = self.made(torch.cat([x, torch.ones_like(x[:, :1])], 1))[:, :3]
            else:
                sr = self.made(x)
        return sr.float().mul(2).sub(1)


def network(architecture: Mapping[str, Any], state: Mapping[str, Any]) -> OtherNet:
    """The network that these tensors are. Raises as `described`."""
    return OtherNet(OtherConfig(architecture["bytes_per_pixel"]), _made(state))


def described(state: Mapping[str, Any]) -> dict[str, Any]:
    """What network these tensors are: name, parameters, scale, channels, whether it is for faces,
    bytes_per_pixel. Raises ImportError without spandrel, LookupError for tensors that it does not
    know, ValueError for damaged ones, and for networks that do not enlarge."""
    made = _made(state)
    return {
        "name": made.architecture.name,
        "tags": list(made.tags),
        "purpose": made.purpose,
        "parameters": sum(p.numel() for p in made.model.parameters()),
        "scale": made.scale,
        "channels": made.input_channels,
        "bytes_per_pixel": _bytes_per_pixel(made),
    }


def _made(state: Mapping[str, Any]) -> ImageModelDescriptor:
    mended()  # spandrel imports it
    import spandrel

    try:
        made = spandrel.ModelLoader().load_from_state_dict(dict(state))
    except spandrel.UnsupportedModelError as error:
        raise LookupError("these are tensors of no network that spandrel knows") from error
    except Exception as error:  # of forty networks: whatever their code stumbles over
        raise ValueError(f"spandrel cannot make a network of these tensors ({error})") from error
    if not isinstance(made, spandrel.ImageModelDescriptor):
        raise ValueError(f"{made.architecture.name} fills holes, it enlarges no picture")
    channels = made.input_channels, made.output_channels
    if channels not in ((1, 1), (3, 3), (4, 4)):
        raise ValueError(
            f"{made.architecture.name} makes {channels[1]} channels of {channels[0]}: a network "
            "for pictures has 1, 3 or 4 on both sides"
        )
    made.model.eval().requires_grad_(False).float()
    return made


class _Alive(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive at the same time within it."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._shared: dict[int, int] = {}  # storage -> tensors that are views of it

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                self._shared[key] = self._shared.get(key, 0) + 1
                self._now += size if self._shared[key] == 1 else 0
                weakref.finalize(tensor, self._left, key, size)
        self.peak = max(self.peak, self._now)
        return out

    def _left(self, key: int, size: int) -> None:
        self._shared[key] -= 1
        if not self._shared[key]:
            del self._shared[key]
            self._now -= size


def _bytes_per_pixel(made: ImageModelDescriptor) -> int:
    """Peak memory of a call per pixel of the output, counted without computing anything. The
    network is of no use afterwards: it may have kept tensors that hold nothing."""
    from torch._subclasses import FakeTensorMode

    try:
        with FakeTensorMode(allow_non_fake_inputs=True), _Alive() as alive, torch.no_grad():
            sr = made(torch.zeros(1, made.input_channels, _PROBE, _PROBE))
    except Exception:  # it looks at numbers, which there are none of
        return UNKNOWN
    return max(32, round(WORKSPACE * alive.peak / sr[0, 0].numel()))
