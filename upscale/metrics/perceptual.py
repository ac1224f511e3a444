"""LPIPS, the distance that a network trained on photographs sees (Zhang et al. 2018, v0.1).

The only door to `lpips`. That package downloads its trunks unasked; here trunk and heads come
from one safetensors file, checked by its sha256: AlexNet's is one of diffsr's own weights, VGG's
is a file of yours.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from upscale.errors import WeightsError, check_known
from upscale.metrics.files import metric_file
from upscale.nets.vision import mended
from upscale.weights import store

SMALLEST = {"alex": 31, "vgg": 16}  # shorter sides leave nothing after the last pooling
VGG_VARIABLE = "DIFFSR_LPIPS_VGG"
_HOW = (
    f"diffsr ships AlexNet's only: set {VGG_VARIABLE} to a safetensors file with VGG-16's features "
    "and LPIPS's v0.1 heads"
)
_TINY = 1e-12  # added to squared lengths of features, so that no square vanishes in float32
_CACHED = 1 << 17  # values, of which a CPU's cache holds some
Features: TypeAlias = tuple[Tensor, ...]  # a batch's features, one tensor per level


class Trunk(nn.Module):
    """Frozen features of LPIPS: (B,3,H,W) in [-1,1] -> five (B,C,h,w), differentiable with respect
    to the input; of float32, or of what autocast computes in."""

    def __init__(self, scaling: nn.Module, net: nn.Module) -> None:
        super().__init__()
        self.scaling, self.net = scaling, net

    def forward(self, x: Tensor) -> Features:
        return tuple(self.net(self.scaling(x)))


class Lpips:
    """LPIPS v0.1 with trunk `net` ("alex" or "vgg") on `device`.

    `weights` is a safetensors file with torchvision's key names (`features.0.weight`) and the
    heads (`lin0.model.1.weight`); None looks where `weights_file` says. Raises WeightsError.
    """

    def __init__(
        self,
        net: str = "alex",
        device: str | torch.device = "cpu",
        weights: str | Path | None = None,
    ) -> None:
        self.name = net
        self.path = weights_file(net, weights)
        # channels_last is faster on a CPU
        model = _fill(_skeleton(net), self.path).to(device).to(memory_format=torch.channels_last)
        self.trunk = Trunk(model.scaling_layer, model.net)
        self.heads = [lin.model[-1].weight for lin in model.lins]  # (1,C,1,1)

    def distance(self, sr: np.ndarray | Tensor, hr: np.ndarray | Tensor) -> float:
        """Two (H,W,3) pictures in [0,1] -> their distance: 0 for equal ones, rarely above 1.

        nan where a side is below `SMALLEST`. ValueError for another range or different sizes.
        """
        sr, hr = self._batch(sr), self._batch(hr)
        if sr.shape != hr.shape:
            raise ValueError(f"sizes differ: {tuple(sr.shape[2:])} and {tuple(hr.shape[2:])}")
        if min(sr.shape[2:]) < SMALLEST[self.name]:
            return math.nan
        with torch.no_grad():
            return float(self.loss(sr, hr))

    def loss(self, sr: Tensor, hr: Tensor) -> Tensor:
        """(B,3,H,W) twice, in [-1,1] -> (B,), differentiable; its own weights get no gradient."""
        total = torch.zeros(len(sr), device=sr.device)
        for a, b, head in zip(self.trunk(sr), self.trunk(hr), self.heads, strict=True):
            difference = (unit(a) - unit(b)) ** 2
            total = total + (difference * head).sum(1).mean((1, 2))
        return total

    def compared(self, sr: Features, hr: Features) -> Tensor:
        """`loss` of two pictures' features, (B,), by `_Apart`: several times as fast forward and
        backward, and for equal features 0 only up to rounding. For training: no gradient reaches
        `hr`."""
        with torch.autocast(sr[0].device.type, enabled=False):  # differences of nearly equal sums
            each = [
                _Apart.apply(a, b, head.flatten())
                for a, b, head in zip(sr, hr, self.heads, strict=True)
            ]
        return torch.stack(each).sum(0)

    @staticmethod
    def last_compared(sr: Features, hr: Features) -> Tensor:
        """L1 between the last of two pictures' features, (B,), differentiable.

        ECDP eq. 19, which takes VGG-19's conv5_4; here they are those of LPIPS's trunk
        (VGG-16's relu5_3, AlexNet's relu5)."""
        return (sr[-1].float() - hr[-1].float()).abs().mean((1, 2, 3))

    def _batch(self, picture: np.ndarray | Tensor) -> Tensor:
        """(H,W,3) in [0,1] -> (1,3,H,W) in [-1,1] on this metric's device."""
        x = torch.as_tensor(picture).to(self.heads[0].device, torch.float32)
        if x.ndim != 3 or x.shape[-1] != 3:
            raise ValueError(f"a picture must be (H,W,3), not {tuple(x.shape)}")
        if x.amin() < -1e-3 or x.amax() > 1 + 1e-3:
            raise ValueError(f"a picture must lie in [0,1], not [{x.amin():.3g}, {x.amax():.3g}]")
        return x.permute(2, 0, 1)[None] * 2 - 1


def weights_file(net: str, path: str | Path | None = None) -> Path:
    """Where `net`'s weights are: see `metric_file`. Raises WeightsError, UsageError."""
    check_known(net, SMALLEST, "LPIPS network")
    variable = VGG_VARIABLE if net == "vgg" else None
    return metric_file(f"lpips-{net}", f"LPIPS {net}", _HOW, variable, path)


def available(net: str) -> bool:
    """Whether `Lpips(net)` would find weights."""
    try:
        weights_file(net)
    except WeightsError:
        return False
    return True


def unit(features: Tensor, length: float = 1.0) -> Tensor:
    """Features of a length, of 1 as in LPIPS, over the channels; the gradient is finite where all
    are zero."""
    return _Unit.apply(features, length)


def _rows(features: Tensor) -> Tensor:
    """(B,C,h,w) -> (B h w, C): a view, where the channels are last."""
    return features.movedim(1, -1).flatten(0, 2)


def _as(rows: Tensor, features: Tensor) -> Tensor:
    """The inverse of `_rows`, in the shape of some features."""
    return rows.unflatten(0, (len(features), *features.shape[2:])).movedim(-1, 1)


def _parts(rows: Tensor) -> Iterator[slice]:
    """Places by so many as a CPU's cache holds with all that is computed of them: through main
    memory that would take three times as long. A GPU takes all at once."""
    step = max(1, _CACHED // rows.shape[1]) if rows.device.type == "cpu" else len(rows)
    return (slice(start, start + step) for start in range(0, len(rows), step))


class _Unit(torch.autograd.Function):
    """`unit`: sums in float32, the result in the features' own type."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, length: float) -> Tensor:
        rows = _rows(features)
        made, gain = torch.empty_like(rows), rows.new_empty(len(rows), 1, dtype=torch.float32)
        for part in _parts(rows):
            x = rows[part].float()
            torch.rsqrt((x * x).sum(1, keepdim=True) + 1e-20, out=gain[part])
            gain[part] *= length
            made[part] = x * gain[part]
        ctx.save_for_backward(features, gain)
        ctx.length = length
        return _as(made, features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        features, gain = ctx.saved_tensors
        rows, given = _rows(features), _rows(gradient)
        made = torch.empty_like(rows)
        for part in _parts(rows):
            u, g = rows[part] * (gain[part] / ctx.length), given[part].float()
            made[part] = gain[part] * (g - u * (u * g).sum(1, keepdim=True))
        return _as(made, features), None


class _Apart(torch.autograd.Function):
    """LPIPS's distance of two pictures' features (B,C,h,w), one level, with weights (C,): (B,).

    The square is written out, so that all a place needs are five sums over its channels: of both
    squares, plain and weighed, and of the weighed product. No gradient for the second.
    """

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
        a, b = _rows(first), _rows(second)
        columns = torch.stack([torch.ones_like(weights), weights], 1)
        sums = a.new_empty(len(a), 5, dtype=torch.float32)
        for part in _parts(a):
            x, y = a[part].float(), b[part].float()
            sums[part, 0:2] = (x * x) @ columns
            sums[part, 2:4] = (y * y) @ columns
            sums[part, 4] = (x * y) @ weights
        aa, a_weighed, bb, b_weighed = (sums[:, :4] + _TINY).unbind(1)
        both, root = sums[:, 4], torch.rsqrt(aa * bb)
        ctx.save_for_backward(first, second, weights, aa, a_weighed, both, root)
        apart = a_weighed / aa + b_weighed / bb - 2 * both * root
        return apart.view(len(first), -1).mean(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        first, second, weights, aa, a_weighed, both, root = ctx.saved_tensors
        a, b = _rows(first), _rows(second)
        each = len(a) // len(first)
        g = 2 * (gradient / each).repeat_interleave(each)
        of_weighed, of_product = (g / aa)[:, None], (-g * root)[:, None]
        plain = of_weighed * (both * root - a_weighed / aa)[:, None]
        made = torch.empty_like(a)
        for part in _parts(a):
            x = torch.addcmul(plain[part], of_weighed[part], weights).mul_(a[part])
            made[part] = x.addcmul_(b[part] * weights, of_product[part])
        return _as(made, first), None, None


def _skeleton(net: str) -> nn.Module:
    """lpips's module without values: no download, and no time lost on random ones."""
    lpips = _import_lpips()
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # torchvision's notes on the argument `pretrained`
        model = lpips.LPIPS(pretrained=False, pnet_rand=True, net=net, verbose=False)
    model.scaling_layer = type(model.scaling_layer)()  # constants: wanted with their values
    return model


def _fill(model: nn.Module, path: Path) -> nn.Module:
    """The file's values, in float32; every key must be there and no other. Returns `model`."""
    state, _ = store.read(path)
    keys = {key: _file_key(key) for key in model.state_dict() if "scaling_layer" not in key}
    missing, extra = set(keys.values()) - set(state), set(state) - set(keys.values())
    if missing or extra:
        some = ", ".join(sorted(missing or extra)[:3])
        problem = "lacks" if missing else "also holds"
        raise WeightsError(f"{path} is not a file of LPIPS {model.pnet_type}: it {problem} {some}")
    values = {key: state[source].float() for key, source in keys.items()}
    try:
        model.load_state_dict(values, strict=False, assign=True)
    except RuntimeError as error:  # a shape
        why = str(error).strip().splitlines()[-1].strip()
        raise WeightsError(f"{path} is not a file of LPIPS {model.pnet_type}: {why}") from error
    return model.eval().requires_grad_(False)


def _file_key(key: str) -> str:
    """lpips's name of a value -> the file's: net.slice2.3.weight -> features.3.weight."""
    parts = key.split(".")
    if parts[0] == "net":
        return ".".join(["features", *parts[2:]])
    if parts[0] == "lins":  # the heads a second time
        return ".".join([f"lin{parts[1]}", *parts[2:]])
    return key


@functools.cache
def _import_lpips() -> ModuleType:
    """`import lpips`, without its talk."""
    mended()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lpips
    return lpips
