"""The names that a benchmark knows: THE table of its numbers, sets of pictures, and what small
pictures have gone through. Without torch, for the help's sake."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A number of a row: its title in tables, digits after the point, and what it is.

    better: 1 where more is better, -1 where less is, 0 where neither can be said.
    whole: measured on all pictures together, so that it has no interval over them.
    needs: what a user must bring; empty for what works as installed.
    """

    title: str
    digits: int
    better: int
    text: str
    whole: bool = False
    needs: str = ""


METRICS: dict[str, Column] = {
    "psnr_y": Column("PSNR-Y", 2, 1, "PSNR of BT.601 luma in dB, a border as wide as the scale "
                     "left out"),
    "ssim_y": Column("SSIM-Y", 4, 1, "SSIM of BT.601 luma, the same border left out"),
    "psnr": Column("PSNR", 2, 1, "PSNR over R, G, B of the whole picture in dB"),
    "ssim": Column("SSIM", 4, 1, "SSIM over R, G, B of the whole picture"),
    "lpips": Column("LPIPS (alex)", 4, -1, "LPIPS v0.1 with AlexNet"),
    "lpips_vgg": Column("LPIPS (vgg)", 4, -1, "LPIPS v0.1 with VGG-16",
                        needs="VGG-16's trunk: DIFFSR_LPIPS_VGG"),
    "dists": Column("DISTS", 4, -1, "DISTS, structure and texture of VGG-16's features",
                    needs="VGG-16's trunk: DIFFSR_LPIPS_VGG"),
    "niqe": Column("NIQE", 3, -1, "NIQE of the result alone; whole blocks of 96x96 of luma"),
    "consistency": Column("Consistency", 3, -1, "MSE x 1e5 between the input and the result shrunk "
                          "to its size"),
    "lr_psnr": Column("LR-PSNR", 2, 1, "the same as PSNR in dB"),
    "grid_ratio": Column("grid", 2, 0, "energy of a pattern as wide as the scale over its "
                         "surroundings; 1 is none"),
    "mesh": Column("mesh", 3, -1, "how far single waves stand out of the spectrum more than the "
                   "truth's, in any direction; 0 is none"),
    "diversity": Column("diversity", 4, 0, "mean LPIPS (alex) between the samples of one picture; "
                        "needs --samples 2 or more"),
    "identity": Column("identity", 4, -1, "distance of dlib's face descriptors; below 0.6 the same "
                       "person", needs="pip install 'diffsr[faces]'"),
    "top1": Column("top-1", 4, 1, "share that ResNet-50 recognises as its class of labels.csv",
                   needs="ResNet-50's weights: DIFFSR_RESNET50"),
    "top5": Column("top-5", 4, 1, "the same among its five likeliest classes",
                   needs="ResNet-50's weights: DIFFSR_RESNET50"),
    "fid": Column("FID", 3, -1, "Frechet distance of Inception features over all pictures",
                  whole=True,
                  needs="pip install 'diffsr[metrics]' and Inception's weights: DIFFSR_INCEPTION"),
}  # fmt: skip

COSTS: dict[str, Column] = {
    "seconds": Column("seconds", 3, -1, "per picture, network calls and all, without loading"),
    "megapixels_per_s": Column("Mpx/s", 3, 1, "megapixels of the result per second"),
    "peak_mib": Column("peak MiB", 0, -1, "the most memory taken while enlarging: of the GPU, or "
                       "of the whole process"),
}  # fmt: skip

COLUMNS = {**METRICS, **COSTS}
DEFAULT_METRICS = ("psnr_y", "ssim_y", "lpips", "lpips_vgg", "consistency", "grid_ratio")

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
# What makes the small picture of the large one: name -> steps with their numbers, which
# `protocol.STEPS` explains. peers: what other tables measured with. The rest is what is common.
DEGRADATIONS: dict[str, tuple[tuple, ...]] = {
    "none": (("bicubic",),),
    # those tables call their blur 1.5 px: 1.1 is the sigma that gives their bicubic's numbers
    "peers": (("blur", 1.1), ("bicubic",), ("noise", 4.0), ("JPEG", 60)),
    "jpeg90": (("bicubic",), ("JPEG", 90)),
    "jpeg75": (("bicubic",), ("JPEG", 75)),
    "phone": (("bicubic",), ("grain", 2.0, 0.6), ("sharpen", 0.4, 1.0), ("JPEG", 92)),
    "messenger": (("twice",), ("JPEG", 85), ("area",), ("JPEG", 70)),
    "webp": (("bicubic",), ("WEBP", 75)),
}
