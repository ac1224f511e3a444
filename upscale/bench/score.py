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
from upscale.errors import UsageError
from upscale.machine import pick_device
from upscale.metrics import perceptual, pixel
from upscale.metrics.perceptual import Lpips
from upscale.weights.store import sha256_of

_NETS = {"lpips": "alex", "lpips_vgg": "vgg", "diversity": "alex"}
_RANKS = {"top1": 1, "top5": 5}


@dataclass(frozen=True)
class Case:
    """A result and what it is judged by: pictures (H,W,3) in [0,1]; lr is smaller."""

    sr: np.ndarray
    hr: np.ndarray
    lr: np.ndarray
    label: int | None = None


Metric = Callable[[Case], float]


def default_metrics() -> tuple[str, ...]:
    """`DEFAULT_METRICS`, without LPIPS (vgg) where its weights are not on this machine."""
    vgg = perceptual.available("vgg")
    return tuple(name for name in DEFAULT_METRICS if vgg or not METRICS[name].needs)


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

    def features(self, case: Case) -> dict[str, np.ndarray]:
        """What metrics of all pictures together are made of, by name."""
        if self._inception is None:
            return {}
        pair = {"fid_made": case.sr, "fid_real": case.hr}
        return {name: self._inception.features(picture) for name, picture in pair.items()}

    def _metric(self, name: str) -> Metric:
        if name in ("psnr_y", "ssim_y"):
            return _shaved(getattr(pixel, name), self.border)
        if name in ("psnr", "ssim"):
            return _shaved(getattr(pixel, name), 0)
        if name in (*_NETS, "dists", "identity"):
            return _of_pair(self._network(name).distance)
        if name in _RANKS:
            return _recognised(self._network("top1").rank, _RANKS[name])
        if name == "grid_ratio":
            return lambda case: pixel.grid_ratio(case.sr, self._period)
        if name == "mesh":
            from upscale.metrics.mesh import mesh

            return _of_pair(mesh)
        if name == "niqe":
            from upscale.metrics.niqe import niqe

            return lambda case: niqe(case.sr)
        against_input = getattr(pixel, name)  # consistency, lr_psnr
        return lambda case: against_input(case.lr, case.sr)

    def _network(self, name: str) -> Any:
        """The metric's network; imported here because some need packages of an extra."""
        if name in _NETS:
            net = _NETS[name]
            network = _lpips(net, self._where, str(perceptual.weights_file(net)))
        elif name == "dists":
            from upscale.metrics.dists import Dists

            network = Dists(self._where)
        elif name == "identity":
            from upscale.metrics.identity import Identity

            return Identity()
        elif name == "fid":
            from upscale.metrics.fid import Inception

            network = Inception(self._where)
        else:
            from upscale.metrics.recognition import Recogniser

            network = Recogniser(self._where)
        self.sources[name] = sha256_of(network.path)
        return network


def _shaved(function: Callable[..., float], border: int) -> Metric:
    def metric(case: Case) -> float:
        large = min(case.hr.shape[:2]) > 2 * border
        return function(case.sr, case.hr, border) if large else math.nan

    return metric


def _of_pair(distance: Callable[[np.ndarray, np.ndarray], float]) -> Metric:
    return lambda case: distance(case.sr, case.hr)


def _recognised(rank: Callable[..., float], within: int) -> Metric:
    def metric(case: Case) -> float:
        place = rank(case.sr, case.label)
        return place if math.isnan(place) else float(place < within)

    return metric


@functools.lru_cache(maxsize=4)
def _lpips(net: str, device: str, path: str) -> Lpips:
    return Lpips(net, device, path)
