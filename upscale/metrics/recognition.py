"""Whether ResNet-50 still recognises what is in the picture (SR3, section 4.4)."""

from __future__ import annotations

import math

import numpy as np
import torch

from upscale.errors import WeightsError
from upscale.metrics.files import metric_file, state_of
from upscale.nets.vision import mended

VARIABLE = "DIFFSR_RESNET50"
_HOW = f"Set {VARIABLE} to a file: hf download timm/resnet50.tv_in1k model.safetensors"


class Recogniser:
    """torchvision's ResNet-50 with ImageNet's 1000 classes, from a .safetensors or .pth file with
    its key names. Raises WeightsError."""

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.path = path = metric_file("resnet50", "resnet50", _HOW, VARIABLE)
        models = mended().models
        with torch.device("meta"):
            net = models.resnet50(weights=None)
        try:
            net.load_state_dict(state_of(path), assign=True)
        except RuntimeError as error:
            why = str(error).strip().splitlines()[-1].strip()
            raise WeightsError(f"{path} is not a file of ResNet-50: {why}") from error
        self.net = net.float().eval().requires_grad_(False).to(device)
        self.device = torch.device(device)
        self.prepared = models.ResNet50_Weights.IMAGENET1K_V1.transforms()

    def rank(self, sr: np.ndarray, label: int | None) -> float:
        """How many classes are rated above `label` for (H,W,3) in [0,1]; 0 means recognised.
        nan without a label."""
        if label is None:
            return math.nan
        scores = self.net(self._batch(sr))[0]
        return float((scores > scores[label]).sum())

    def _batch(self, sr: np.ndarray) -> torch.Tensor:
        """As torchvision evaluates these weights: shorter side 256 by bilinear, antialiased, the
        middle 224x224, normalised: (1,3,224,224)."""
        x = torch.from_numpy(np.array(sr, np.float32)).permute(2, 0, 1)[None]
        return self.prepared(x).to(self.device)
