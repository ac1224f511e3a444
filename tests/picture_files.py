"""What the tests of reading and writing share: samples, files in memory, and a profile of inks."""

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from upscale.image.picture import Picture

ORIENTATION, SOFTWARE, MAKE = 0x0112, 0x0131, 0x010F
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def whole(*shape: int, bits: int = 8, seed: int = 0) -> np.ndarray:
    """Random samples of a depth."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2**bits, shape).astype(np.uint8 if bits == 8 else np.uint16)


def random_photos(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """0.png, 1.png ... in a folder, each a row higher than the one before."""
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, 256, (size[0] + index, size[1], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def saved(image: Image.Image | np.ndarray, format: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, format, **options)
    file.seek(0)
    return file


def samples(picture: Picture) -> np.ndarray:
    """Back to whole numbers, exactly, or not at all."""
    top = 2**picture.bits - 1
    colour = picture.rgb[..., :1] if picture.grey else picture.rgb
    parts = colour if picture.alpha is None else np.dstack([colour, picture.alpha])
    np.testing.assert_allclose(parts * top, np.rint(parts * top), atol=1e-2)
    return np.rint(parts * top).astype(np.uint16)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    a = np.stack([np.sin(x / 9 + k) * 90 + 120 + 20 * np.sin(y / 7) for k in range(3)], 2)
    return (a + whole(height, width, 3) / 20).astype(np.uint8)


def ink_profile() -> bytes:
    """A CMYK profile (ICC.1:2010, lut8): each ink, at its full strength, takes 20 L* from white;
    cyan moves a* to -40."""
    grid = []
    for node in range(16):  # cyan varies slowest
        inks = [node >> 3 & 1, node >> 2 & 1, node >> 1 & 1, node & 1]
        grid += [round((100 - 20 * sum(inks)) * 2.55), 128 - 40 * inks[0], 128]
    ramp = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0])
    lut += struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    lut += ramp * 4 + bytes(grid) + ramp * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    name = b"desc\0\0\0\0" + struct.pack(">I", 4) + b"ink\0" + bytes(78)
    text = b"text\0\0\0\0none\0"
    tags, body = b"", b""
    for tag, data in ((b"A2B0", lut), (b"wtpt", white), (b"desc", name), (b"cprt", text)):
        tags += tag + struct.pack(">II", 128 + 4 + 48 + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", 0, b"none", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    profile = head + struct.pack(">I", 4) + tags + body
    return struct.pack(">I", len(profile)) + profile[4:]
