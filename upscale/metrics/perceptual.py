"""LPIPS, the distance that a network trained on photographs sees (Zhang et al. 2018, v0.1).

The only door to `lpips`. That package downloads its trunks unasked; here trunk and heads come
from one safetensors file, checked by its sha256: AlexNet's is one of diffsr's own weights, VGG's
is a file of yours.
"""

from __future__ import annotations

import functools
import math
import warnings
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from upscale.errors import UsageError, WeightsError
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
Features: TypeAlias = tuple[Tensor, ...]  # a batch's features, one tensor per level


class Trunk(nn.Module):
    """Frozen features of LPIPS: (B,3,H,W) in [-1,1] -> five (B,C,h,w), float32, differentiable
    with respect to the input."""

    def __init__(self, scaling: nn.Module, net: nn.Module) -> None:
        super().__init__()
        self.scaling, self.net = scaling, net

    def forward(self, x: Tensor) -> Features:
        return tuple(f.float() for f in self.net(self.scaling(x)))


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
        """`loss` of two pictures' features, (B,), with its square written out: a third of the time
        forward and backward, and for equal features 0 only up to rounding. For training."""
        total = torch.zeros(len(sr[0]), device=sr[0].device)
        with torch.autocast(total.device.type, enabled=False):  # a difference of nearly equal sums
            for a, b, head in zip(sr, hr, self.heads, strict=True):
                a, b, weights = a.movedim(1, -1), b.movedim(1, -1), head.flatten()
                sums = torch.stack([torch.ones_like(weights), weights], 1)
                aa, a_weighed = (torch.matmul(a * a, sums) + _TINY).unbind(-1)
                bb, b_weighed = (torch.matmul(b * b, sums) + _TINY).unbind(-1)
                both = torch.matmul(a * b, weights)
                apart = a_weighed / aa + b_weighed / bb - 2 * both * torch.rsqrt(aa * bb)
                total = total + apart.mean((1, 2))
        return total

    @staticmethod
    def last_compared(sr: Features, hr: Features) -> Tensor:
        """L1 between the last of two pictures' features, (B,), differentiable.

        ECDP eq. 19, which takes VGG-19's conv5_4; here they are those of LPIPS's trunk
        (VGG-16's relu5_3, AlexNet's relu5)."""
        return (sr[-1] - hr[-1]).abs().mean((1, 2, 3))

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
    if net not in SMALLEST:
        raise UsageError(f"no LPIPS network {net!r}; choose from {', '.join(SMALLEST)}")
    variable = VGG_VARIABLE if net == "vgg" else None
    return metric_file(f"lpips-{net}", f"LPIPS {net}", _HOW, variable, path)


def available(net: str) -> bool:
    """Whether `Lpips(net)` would find weights."""
    try:
        weights_file(net)
    except WeightsError:
        return False
    return True


def unit(features: Tensor) -> Tensor:
    """Features of length 1 over the channels; the gradient is finite where all are zero."""
    return features / ((features**2).sum(1, keepdim=True) + 1e-20).sqrt()


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
