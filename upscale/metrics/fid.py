"""FID, the Frechet distance of Inception features (Heusel et al. 2017), by torch-fidelity.

The only door to `torch_fidelity`. It would open its weights as a pickle that may run code, and
download them unasked; here they are read as tensors first and handed to it as a file of ours.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from upscale.errors import WeightsError
from upscale.image.picture import quantised
from upscale.metrics.files import metric_file, state_of
from upscale.nets.vision import mended

VARIABLE = "DIFFSR_INCEPTION"
_FILE = "weights-inception-2015-12-05-6726825d.pth"
_HOW = f"Fetch {_FILE} from torch-fidelity's releases, and set {VARIABLE} to the file"


class Inception:
    """The network whose features FID compares, on `device`. Raises WeightsError."""

    def __init__(self, device: str | torch.device = "cpu") -> None:
        extractor = _package("feature_extractor_inceptionv3").FeatureExtractorInceptionV3
        self.path = path = metric_file("inception", "inception", _HOW, VARIABLE)
        with tempfile.TemporaryDirectory() as folder:
            tensors = Path(folder) / "inception.pth"
            torch.save(state_of(path), tensors)
            try:
                net = extractor("inception", ["2048"], str(tensors))
            except RuntimeError as error:
                why = str(error).strip().splitlines()[-1].strip()
                raise WeightsError(f"{path} is not FID's Inception: {why}") from error
        self.net, self.device = net.to(device), torch.device(device)

    @torch.no_grad()
    def features(self, picture: np.ndarray) -> np.ndarray:
        """(H,W,3) in [0,1] -> float32 (2048,)."""
        x = torch.from_numpy(quantised(picture, 8)).permute(2, 0, 1)[None]
        return self.net(x.to(self.device))[0][0].cpu().numpy()


def fid(made: Sequence[np.ndarray], real: Sequence[np.ndarray]) -> float:
    """The distance between two sets of features (2048,); nan for fewer than two pictures. For few
    pictures it is far too large: compare only sets of equal size."""
    if min(len(made), len(real)) < 2:
        return math.nan
    package = _package("metric_fid")
    statistics = [
        package.fid_features_to_statistics(torch.from_numpy(np.stack(one)).double())
        for one in (made, real)
    ]
    return package.fid_statistics_to_metric(*statistics, verbose=False)[package.KEY_METRIC_FID]


def _package(name: str) -> ModuleType:
    """A module of torch_fidelity. Raises WeightsError where it is not installed."""

    with contextlib.suppress(Exception):  # mends a torchvision without its C++ library, if need be
        mended()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(f"torch_fidelity.{name}")
    except ImportError as error:
        raise WeightsError(
            f"fid needs torch-fidelity ({error}): pip install 'diffsr[metrics]'"
        ) from error
