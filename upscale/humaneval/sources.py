"""Folders of pictures, and methods that make some, become the entries of a study."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from upscale.errors import InputError
from upscale.humaneval.build import Entry
from upscale.image.decode import read
from upscale.image.picture import Picture, quantised

Size = tuple[int, int]  # (height, width)
Paths = Mapping[str, Path]  # name without suffix -> file


@dataclass(frozen=True)
class Sources:
    """Where the images of a study come from.

    hr        the truths, in the order of the study; lr and outputs have a file for each
    make_lr   truth -> (lr, truth cut so that the scale divides it), where `lr` is None
    enlarge   (lr, size) -> the picture in the middle of task 1
    outputs   method -> files another program made
    makers    method -> (lr, size) -> sr
    All arrays are float32 (H,W,3) in [0,1].
    """

    hr: Paths
    make_lr: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    enlarge: Callable[[np.ndarray, Size], np.ndarray]
    lr: Paths | None = None
    outputs: Mapping[str, Paths] = field(default_factory=dict)
    makers: Mapping[str, Callable[[np.ndarray, Size], np.ndarray]] = field(default_factory=dict)

    def entries(self) -> Iterator[Entry]:
        """One after the other, so that a study of any length fits into memory."""
        for name, path in self.hr.items():
            truth = read(path)
            if self.lr is None:
                try:
                    lr, cut = self.make_lr(truth.rgb)
                except InputError as error:
                    raise InputError(f"{path}: {error}") from error
                height, width = cut.shape[:2]
                alpha = None if truth.alpha is None else truth.alpha[:height, :width]
                truth = Picture(cut, alpha=alpha, icc=truth.icc)
            else:
                lr = read(self.lr[name]).rgb
                _check_lr(self.lr[name], lr.shape[:2], truth.size)
            outputs = {
                method: _result(files[name], truth) for method, files in self.outputs.items()
            }
            for method, make in self.makers.items():
                outputs[method] = quantised(make(lr, truth.size), 8) / np.float32(255)
            yield Entry(name, truth, self.enlarge(lr, truth.size), outputs)


def _check_lr(path: Path, lr: Size, hr: Size) -> None:
    """The two must show the same: one ratio for height and width, but for a pixel's rounding."""
    if min(lr) < 1 or lr[0] > hr[0] or lr[1] > hr[1]:
        raise InputError(f"{path}: is larger than its original")
    scale = hr[1] / lr[1]
    if abs(lr[0] - hr[0] / scale) >= 1:
        raise InputError(
            f"{path}: {lr[1]}x{lr[0]} pixels are no smaller version of {hr[1]}x{hr[0]}"
        )


def _result(path: Path, truth: Picture) -> np.ndarray:
    sr = read(path)
    if sr.size != truth.size:
        raise InputError(
            f"{path}: {sr.size[1]}x{sr.size[0]} pixels, where {truth.size[1]}x{truth.size[0]} are "
            "compared: the original, cut to a multiple of --scale where there is no --lr"
        )
    if (sr.icc is None) != (truth.icc is None):
        raise InputError(
            f"{path}: has {'a' if sr.icc else 'no'} colour profile, unlike its original: the "
            "colours would tell which is which; convert both to sRGB"
        )
    return sr.rgb
