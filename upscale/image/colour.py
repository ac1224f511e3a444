"""From any of Pillow's modes to straight RGB and alpha."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageCms

from upscale.errors import InputError
from upscale.image import profile

_BAND = 256  # rows that are converted at a time
# rgb float32 (H,W,3) in [0,1], alpha float32 (H,W) or None, grey or not
Planes: TypeAlias = "tuple[np.ndarray, np.ndarray | None, bool]"

# Pillow's mode -> the mode that holds the same colours, and with a transparent colour named
_PLAIN = {
    "1": ("L", "LA"),
    "L": ("L", "LA"),
    "LA": ("LA", "LA"),
    "La": ("LA", "LA"),
    "P": ("RGB", "RGBA"),
    "PA": ("RGBA", "RGBA"),
    "RGB": ("RGB", "RGBA"),
    "RGBA": ("RGBA", "RGBA"),
    "RGBa": ("RGBA", "RGBA"),
    "RGBX": ("RGB", "RGB"),
    "YCbCr": ("RGB", "RGB"),
    "HSV": ("RGB", "RGB"),
}


def planes(im: Image.Image) -> Planes:
    """A loaded image in L, LA, RGB or RGBA -> its planes."""
    samples = np.empty((im.height, im.width, len(im.getbands())), np.float32)
    for rows, band in bands(im):
        samples[rows] = band
    samples /= 255
    return split(samples)


def bands(im: Image.Image) -> Iterator[tuple[slice, np.ndarray]]:
    """An image's rows, some at a time, as (h,W,C): as a whole they would be there twice."""
    for y in range(0, im.height, _BAND):
        bottom = min(y + _BAND, im.height)
        band = np.asarray(im.crop((0, y, im.width, bottom)))
        yield slice(y, bottom), band if band.ndim == 3 else band[..., None]


def split(samples: np.ndarray) -> Planes:
    """float32 (H,W,1..4), as in L, LA, RGB or RGBA -> its planes."""
    colours = 1 if samples.shape[2] < 3 else 3
    alpha = samples[..., -1] if samples.shape[2] > colours else None
    rgb = np.repeat(samples[..., :1], 3, 2) if colours == 1 else samples[..., :3]
    return rgb, alpha, colours == 1


def plain(im: Image.Image, icc: bytes | None) -> tuple[Image.Image, bytes | None, list[str]]:
    """A loaded image -> (the same in L, LA, RGB or RGBA, the profile that holds for it, notes).

    CMYK and Lab become sRGB, so their profile is spent. Raises InputError for samples that have
    no agreed black and white, as floats and 32-bit integers.
    """
    if im.mode == "CMYK":
        return _from_cmyk(im, icc)
    if im.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        rgb = ImageCms.profileToProfile(im, lab, ImageCms.createProfile("sRGB"), outputMode="RGB")
        return rgb, None, ["Lab was converted to sRGB"]
    if im.mode not in _PLAIN:
        raise InputError(
            f"samples of Pillow's mode {im.mode} have no known black and white; "
            "convert the picture to 8 or 16 bits a channel first"
        )
    transparent = "transparency" in im.info or (
        im.mode == "P" and im.palette is not None and im.palette.mode == "RGBA"
    )
    mode = _PLAIN["L" if _is_grey_palette(im) else im.mode][transparent]
    return im if im.mode == mode else im.convert(mode), *fitting(icc)


def fitting(icc: bytes | None) -> tuple[bytes | None, list[str]]:
    """The profile of an RGB or grey picture, unless it is for something else; notes."""
    if icc and (len(icc) < 132 or int.from_bytes(icc[:4], "big") > len(icc)):
        return None, ["a damaged colour profile was left out"]
    if icc and icc[16:20] not in (b"RGB ", b"GRAY"):
        return None, ["a colour profile that is not for RGB or grey was left out"]
    return icc or None, []


def to_srgb(samples: np.ndarray, icc: bytes) -> np.ndarray | None:
    """uint8 (H,W,1..4) whose colours a profile says -> the same in sRGB; None for a profile that is
    damaged or for something else."""
    colours = 1 if samples.shape[2] < 3 else 3
    shown = np.ascontiguousarray(samples[..., :colours])
    grey = profile.space(icc) == b"GRAY"
    if grey:
        image = Image.fromarray(np.ascontiguousarray(shown[..., 0]))
    else:
        image = Image.fromarray(shown if colours == 3 else shown.repeat(3, 2))
    if grey and colours == 3:
        return None
    try:
        rgb = ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(icc)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, OSError):
        return None
    made = np.asarray(rgb)[..., :colours]
    return np.concatenate([made, samples[..., colours:]], 2)


def _is_grey_palette(im: Image.Image) -> bool:
    """GIF has no other way to be grey."""
    if im.mode != "P" or im.palette is None or im.palette.mode != "RGB":
        return False
    colours = np.frombuffer(im.palette.tobytes(), np.uint8).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def _from_cmyk(im: Image.Image, icc: bytes | None) -> tuple[Image.Image, None, list[str]]:
    if icc:
        try:
            rgb = ImageCms.profileToProfile(
                im,
                ImageCms.ImageCmsProfile(io.BytesIO(icc)),
                ImageCms.createProfile("sRGB"),
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                outputMode="RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
            return rgb, None, ["CMYK was converted to sRGB through its colour profile"]
        except (ImageCms.PyCMSError, OSError):
            pass  # a damaged profile, or one for another kind of colour
    return im.convert("RGB"), None, ["CMYK without a usable profile: its colours are a guess"]


def upright(
    planes: tuple[np.ndarray, np.ndarray | None], orientation: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """rgb and alpha as stored -> as seen, for an EXIF orientation 1..8 (EXIF 2.3, 4.6.4 A)."""
    rgb, alpha = planes
    return _turned(rgb, orientation), None if alpha is None else _turned(alpha, orientation)


def _turned(plane: np.ndarray, orientation: int) -> np.ndarray:
    if orientation == 1:
        return np.ascontiguousarray(plane)
    if orientation in (5, 6, 7, 8):
        plane = plane.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        plane = plane[::-1]
    if orientation in (2, 3, 6, 7):
        plane = plane[:, ::-1]
    return np.array(plane, order="C")  # of one row or column, others may keep negative strides
