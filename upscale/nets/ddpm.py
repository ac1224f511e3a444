"""A network without a condition: SR3's U-Net on the noisy picture alone (Ho et al. 2020).

What SR3 section 4.7 starts its cascades from. The form is SR3's (BigGAN blocks, FiLM by the
continuous noise level), so that the two differ in nothing but the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from upscale.nets.net import Net
from upscale.nets.unet import UNet, UNetConfig


@dataclass(frozen=True)
class DDPMConfig(UNetConfig):
    """patch: pixel_unshuffle factor before the U-Net, whose full resolution is 1/patch of the
    picture's. Raises ValueError for sizes that fit no network."""

    patch: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch < 1:
            raise ValueError(f"patch must be 1 or more, not {self.patch}")
        if not self.noisy_input:
            raise ValueError("without a condition the noisy picture is all that there is to see")


CONFIGS: dict[str, DDPMConfig] = {
    # 64x64 on CPUs: 32x32 and below, attention at 16 and 8; under 4 MiB in fp16
    "ddpm-64": DDPMConfig(
        inner=32, mults=(1, 2, 3), res_blocks=1, attention=(1, 2), heads=2, groups=8, patch=2
    ),
    # for trying things out: 0.1M parameters
    "ddpm-tiny": DDPMConfig(inner=16, mults=(1, 2), res_blocks=1, attention=(1,), groups=8),
}


class DDPMNet(Net):
    """The U-Net on the noisy picture alone."""

    kind = "ddpm"
    config_type = DDPMConfig
    named: ClassVar = CONFIGS
    bytes_per_pixel = 5800  # as SR3's: an upper bound
    cond_bytes_per_pixel = 0

    def __init__(self, config: DDPMConfig | None = None) -> None:
        c = config or CONFIGS["ddpm-64"]
        super().__init__(c)
        self.align = c.patch * 2 ** (len(c.mults) - 1)
        channels = 3 * c.patch**2
        self.unet = UNet(c, channels, channels)

    def encode(self, lr_up: Tensor, scale: Tensor, lr: Tensor | None = None) -> None:
        """There is no condition, whatever is given."""
        return None

    def forward(self, x: Tensor, cond: None, c_noise: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        h = F.pixel_unshuffle(self.padded(x), self.config.patch)
        h = self.unet(h, c_noise.to(x))
        return F.pixel_shuffle(h, self.config.patch)[..., :height, :width]
