"""SR3's network (Saharia et al., section 2.5): a U-Net on the enlarged input beside the noise."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from upscale.nets.net import Net
from upscale.nets.unet import UNet, UNetConfig

_PUBLISHED = UNetConfig(noise_gain=1.0, biggan=False, scale_shift=False)
_TINY = UNetConfig(inner=16, mults=(1, 2), res_blocks=1, attention=(1,), groups=8)

# The published code's sizes (its configs 16_128 and 64_512; the paper's are in its Table 1, which
# its text leaves out), in its own form and with the paper's blocks. Attention stands where the
# nominal side is 16: level 3 of 128; 512 reaches 32 only, so there the middle alone has it.
CONFIGS: dict[str, UNetConfig] = {
    "sr3-16-128": UNetConfig(dropout=0.2),
    "sr3-64-512": UNetConfig(mults=(1, 2, 4, 8, 16), res_blocks=1, attention=(), groups=16),
    "sr3-16-128-published": replace(_PUBLISHED, dropout=0.2),
    "sr3-64-512-published": replace(
        _PUBLISHED, mults=(1, 2, 4, 8, 16), res_blocks=1, attention=(), groups=16
    ),
    # for trying things out: 0.2M parameters
    "sr3-tiny": _TINY,
    "sr3-tiny-published": replace(_TINY, noise_gain=1.0, biggan=False, scale_shift=False),
}


class SR3Net(Net):
    """The U-Net on the noisy picture beside the enlarged input, or on that alone."""

    kind = "sr3"
    config_type = UNetConfig
    named: ClassVar = CONFIGS
    wide = True
    bytes_per_pixel = 5800  # at 64 inner channels
    cond_bytes_per_pixel = 12

    def __init__(self, config: UNetConfig | None = None) -> None:
        super().__init__(config or CONFIGS["sr3-16-128"])
        self.align = 2 ** (len(self.config.mults) - 1)
        self.unet = UNet(self.config, 6 if self.config.noisy_input else 3)

    def encode(self, lr_up: Tensor, scale: Tensor, lr: Tensor | None = None) -> Tensor:
        """SR3 conditions on the enlarged input itself, (B,3,H,W) in [-1,1]; not on the scale."""
        return lr_up

    def forward(self, x: Tensor, cond: Tensor, c_noise: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        h = torch.cat([cond, x], 1) if self.config.noisy_input else cond
        return self.unet(self.padded(h), c_noise.to(x))[..., :height, :width]
