"""The names that a benchmark knows: sets of pictures, and what small pictures have gone through."""

from __future__ import annotations

SHIPPED = "kodak8"  # eight 256x256 cuts of Kodak's pictures, beside this file
SCIKIT = "scikit-photos"
# name -> folders it is known under in DIFFSR_DATA, the first that is there counts
REGISTERED: dict[str, tuple[str, ...]] = {
    SHIPPED: (),
    "set5": ("Set5",),
    "set5-matlab": ("Set5_matlab",),
    "set14": ("Set14",),
    "set14-matlab": ("Set14_matlab",),
    "bsd100": ("BSD100", "BSDS100", "B100"),
    "urban100": ("Urban100",),
    "manga109": ("Manga109",),
    "kodak": ("Kodak24", "Kodak"),
    "div2k-val": ("DIV2K/DIV2K_valid_HR", "DIV2K_valid_HR", "DIV2K-val"),
    "celeba-hq-100": ("CelebA-HQ-100", "celeba_hq_100", "celeba-hq-100"),
    "faces50": ("faces50/HR_128",),
    "imagenet-1k": ("ImageNet-1K-val", "imagenet-1k"),
    SCIKIT: (),
}
DEGRADATIONS = ("none", "peers")  # `protocol.make_lr` says what they are
