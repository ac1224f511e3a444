"""The metrics of `columns`, applied to one picture."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from upscale.bench.columns import DEFAULT_METRICS, METRICS
from upscale.diffusion.table import loaded
from upscale.errors import UsageError
from upscale.machine import pick_device
from upscale.metrics import perceptual, pixel
from upscale.metrics.mesh import mesh
from upscale.metrics.niqe import niqe
from upscale.metrics.perceptual import Lpips
from upscale.weights.store import sha256_of

_LPIPS = {"lpips": "alex", "lpips_vgg": "vgg", "diversity": "alex"}
# loaded where they are asked for: some need packages of an extra
_NETWORKS = {
    "dists": "upscale.metrics.dists:Dists",
    "identity": "upscale.metrics.identity:Identity",
    "fid": "upscale.metrics.fid:Inception",
    "top1": "upscale.metrics.recognition:Recogniser",
}
_RANKS = {"top1": 1, "top5": 5}


@dataclass(frozen=True)
class Case:
    """A result and what it is judged by: pictures (H,W,3) in [0,1]; lr is smaller."""

    sr: np.ndarray
    hr: np.ndarray
    lr: np.ndarray
    label: int | None = None


Metric = Callable[[Case], float]


def default_metrics(samples: int = 1) -> tuple[str, ...]:
    """`DEFAULT_METRICS`, without LPIPS (vgg) where its weights are not on this machine, and of
    several samples their diversity."""
    vgg = perceptual.available("vgg")
    found = tuple(name for name in DEFAULT_METRICS if vgg or not METRICS[name].needs)
    return (*found, "diversity") if samples > 1 else found


class Scorer:
    """The metrics asked for, their networks loaded once. Raises UsageError for an unknown name
    and WeightsError for a network without weights: both before any picture is touched."""

    def __init__(
        self, names: tuple[str, ...], scale: float, device: str = "auto", samples: int = 1
    ) -> None:
        unknown = [name for name in names if name not in METRICS]
        if unknown:
            raise UsageError(f"no metric {', '.join(unknown)}; choose from {', '.join(METRICS)}")
        if "diversity" in names and samples < 2:
            raise UsageError("diversity compares samples of one picture: --samples 2 or more")
        self.names, self.border = names, math.ceil(scale)
        self._period, self._where = max(2, round(scale)), str(pick_device(device))
        self.sources: dict[str, str] = {}  # metric -> sha256 of its network's file
        self._alex = self._network("diversity") if "diversity" in names else None
        self._inception = self._network("fid") if "fid" in names else None
        self.metrics = {
            name: self._metric(name) for name in names if name not in ("diversity", "fid")
        }

    def __call__(self, case: Case) -> dict[str, float]:
        """Value by name; nan where a picture is too small for one."""
        return {name: metric(case) for name, metric in self.metrics.items()}

    def of_all(self, cases: list[Case]) -> dict[str, float]:
        """The means over several samples of one picture, and their diversity."""
        each = [self(case) for case in cases]
        found = {name: sum(one[name] for one in each) / len(each) for name in self.metrics}
        if self._alex is not None:
            pairs = itertools.combinations([case.sr for case in cases], 2)
            distances = [self._alex.distance(a, b) for a, b in pairs]
            found["diversity"] = sum(distances) / len(distances)
        return {name: found[name] for name in self.names if name in found}

    def features(self, cases: list[Case]) -> dict[str, np.ndarray]:
        """What metrics of all pictures together are made of, by name: of the samples of one."""
        if self._inception is None:
            return {}
        made = np.stack([self._inception.features(case.sr) for case in cases])
        return {"fid_made": made, "fid_real": self._inception.features(cases[0].hr)}

    def _metric(self, name: str) -> Metric:
        if name.startswith(("psnr", "ssim")):
            border = self.border if name.endswith("_y") else 0
            return functools.partial(_shaved, getattr(pixel, name), border)
        if name in (*_LPIPS, "dists", "identity"):
            distance = self._network(name).distance
            return lambda case: distance(case.sr, case.hr)
        if name in _RANKS:
            return functools.partial(_recognised, self._network("top1").rank, _RANKS[name])
        if name == "grid_ratio":
            return lambda case: pixel.grid_ratio(case.sr, self._period)
        if name == "mesh":
            return lambda case: mesh(case.sr, case.hr)
        if name == "niqe":
            return lambda case: niqe(case.sr)
        against_input = getattr(pixel, name)  # consistency, lr_psnr
        return lambda case: against_input(case.lr, case.sr)

    def _network(self, name: str) -> Any:
        """The metric's network."""
        if name == "identity":
            return loaded(_NETWORKS[name])()
        if name in _LPIPS:
            net = _LPIPS[name]
            network = _lpips(net, self._where, str(perceptual.weights_file(net)))
        else:
            network = loaded(_NETWORKS[name])(self._where)
        self.sources[name] = sha256_of(network.path)
        return network


def _shaved(function: Callable[..., float], border: int, case: Case) -> float:
    large = min(case.hr.shape[:2]) > 2 * border
    return function(case.sr, case.hr, border) if large else math.nan


def _recognised(rank: Callable[..., float], within: int, case: Case) -> float:
    place = rank(case.sr, case.label)
    return place if math.isnan(place) else float(place < within)


@functools.lru_cache(maxsize=4)
def _lpips(net: str, device: str, path: str) -> Lpips:
    return Lpips(net, device, path)
