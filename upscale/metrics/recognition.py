"""Whether ResNet-50 still recognises what is in the picture (SR3, section 4.4)."""

from __future__ import annotations

import math

import numpy as np
import torch

from upscale.errors import WeightsError
from upscale.image.resize import resize_array
from upscale.metrics.files import metric_file, state_of
from upscale.nets.vision import mended

VARIABLE = "DIFFSR_RESNET50"
_HOW = f"Set {VARIABLE} to a file: hf download timm/resnet50.tv_in1k model.safetensors"
_RESIZED, _CROP = 256, 224  # as torchvision evaluates it
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


class Recogniser:
    """torchvision's ResNet-50 with ImageNet's 1000 classes, from a .safetensors or .pth file with
    its key names. Raises WeightsError."""

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.path = path = metric_file("resnet50", "resnet50", _HOW, VARIABLE)
        with torch.device("meta"):
            net = mended().models.resnet50(weights=None)
        try:
            net.load_state_dict(state_of(path), assign=True)
        except RuntimeError as error:
            why = str(error).strip().splitlines()[-1].strip()
            raise WeightsError(f"{path} is not a file of ResNet-50: {why}") from error
        self.net = net.float().eval().requires_grad_(False).to(device)
        self.device = torch.device(device)

    def rank(self, sr: np.ndarray, label: int | None) -> float:
        """How many classes are rated above `label` for (H,W,3) in [0,1]; 0 means recognised.
        nan without a label."""
        if label is None:
            return math.nan
        scores = self.net(self._batch(sr))[0]
        return float((scores > scores[label]).sum())

    def _batch(self, sr: np.ndarray) -> torch.Tensor:
        """Shorter side 256 by bicubic, the middle 224x224, normalised: (1,3,224,224)."""
        height, width = sr.shape[:2]
        factor = _RESIZED / min(height, width)
        size = (max(_RESIZED, round(height * factor)), max(_RESIZED, round(width * factor)))
        x = np.clip(resize_array(np.ascontiguousarray(sr, np.float32), size), 0, 1)
        top, left = (size[0] - _CROP) // 2, (size[1] - _CROP) // 2
        x = (x[top : top + _CROP, left : left + _CROP] - np.float32(_MEAN)) / np.float32(_STD)
        return torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)[None].to(self.device)
