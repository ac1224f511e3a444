"""TIFF: what its directory declares, its 16-bit samples, and writing it at either depth.

tifffile reads. Writing lays the strips behind a directory made by Pillow, for tifffile's writer
cannot keep an Exif or GPS directory, and Pillow's cannot write 16-bit colour.
"""

from __future__ import annotations

import io
import itertools
import math
import shutil
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from upscale.errors import InputError
from upscale.image import exif as exif_blocks
from upscale.image.picture import Extras

_STRIP_BYTES = 1 << 20
_SPOOL_BYTES = 64 << 20  # of strips that wait in memory; more of them wait on the disk
_LEVEL = 6  # zlib's own default
_LZW, _DEFLATE, _OLD_DEFLATE, _LZMA, _ZSTD = 5, 8, 32946, 34925, 50000
_BEST = {1: 1, _LZW: 2731, _DEFLATE: 1032, _OLD_DEFLATE: 1032, 32773: 64}  # bytes of a byte
_MOST_PAGES = 1_000_000  # counted
_MOST_SAMPLES = 32  # of a pixel
_MOST_TILE = 4096**2  # pixels of a tile larger than the picture
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _YCBCR, _CFA, _LINEAR_RAW = 0, 1, 2, 6, 32803, 34892
_PREMULTIPLIED, _STRAIGHT = 1, 2  # ExtraSamples
_DNG_VERSION = 50706


@dataclass(frozen=True)
class Header:
    size: tuple[int, int]  # as stored, before any orientation
    pages: int  # full-sized ones
    deep: bool  # 16-bit grey or RGB: for `read`; the rest is for Pillow
    missing: float  # the share of the strips or tiles that lie beyond the end of the file
    exif: bytes | None
    orientation: int
    dpi: tuple[float, float] | None
    icc: bytes | None


def header(file: BinaryIO) -> Header:
    """What the first page declares. InputError for a damaged directory, and for a camera's raw
    file, whose first page is only a thumbnail."""
    try:
        with _opened(file) as tiff:
            page = tiff.pages[0]
            _check_bounds(page)
            raw = page.photometric in (_CFA, _LINEAR_RAW) or page.is_reduced
            raw = raw or _DNG_VERSION in page.tags
            deep = (
                page.bitspersample == 16
                and page.sampleformat == 1
                and page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
            )
            size = (page.imagelength, page.imagewidth)
            ends = [sum(at) for at in zip(page.dataoffsets, page.databytecounts, strict=True)]
            missing = sum(end > tiff.filehandle.size for end in ends) / len(ends)
            missing = max(missing, _lacking(page))
            icc = page.tags[34675].value if 34675 in page.tags else None
            pages = _pages(file, tiff)
    except InputError:
        raise
    except Exception as error:  # whatever tifffile stumbles over
        raise InputError(
            f"the TIFF's directory is missing or damaged ({error}); the file was probably cut "
            "short: get it again"
        ) from error
    if raw:
        raise InputError("a camera's raw file; develop it to a TIFF or JPEG first")
    block, orientation, dpi = _said(file)
    return Header(size, pages, deep, missing, block, orientation, dpi, icc)


def _opened(file: BinaryIO) -> tifffile.TiffFile:
    """The file by tifffile, which reads the first page and, of no microscope's files, the others:
    their pointers may lead in a circle."""
    file.seek(0)
    return tifffile.TiffFile(file, is_lsm=False, is_ndpi=False, is_scanimage=False)


def _check_bounds(page: tifffile.TiffPage) -> None:
    """InputError where much more would be decoded than the picture's size says."""
    if page.samplesperpixel > _MOST_SAMPLES:
        raise InputError(
            f"a TIFF of {page.samplesperpixel} samples a pixel; diffsr reads up to {_MOST_SAMPLES}"
        )
    tile = page.tilelength * page.tilewidth if page.is_tiled else 0
    if tile > max(_MOST_TILE, 4 * page.imagelength * page.imagewidth):
        raise InputError(
            f"the TIFF has tiles of {page.tilewidth}x{page.tilelength} pixels for a picture of "
            f"{page.imagewidth}x{page.imagelength}; write it again, in strips"
        )


def _lacking(page: tifffile.TiffPage) -> float:
    """The share of the pixels that the bytes cannot hold even at their compression's best."""
    best = _BEST.get(page.compression)
    if best is None or page.photometric == _YCBCR or 0 in page.databytecounts:  # fewer, or none
        return 0.0
    bits = page.imagelength * page.imagewidth * page.samplesperpixel * page.bitspersample
    return max(0.0, 1 - sum(page.databytecounts) * 8 * best / max(1, bits))


def _pages(file: BinaryIO, tiff: tifffile.TiffFile) -> int:
    """How many full-sized pages there are, up to _MOST_PAGES. Only the links from page to page and
    the tags that say what a page is are read; a link to where the walk has been ends it."""
    form, byteorder = tiff.tiff, "little" if tiff.byteorder == "<" else "big"
    kind = (254).to_bytes(2, byteorder)  # NewSubfileType, the lowest tag there is
    entry = 20 if form.offsetsize == 8 else 12
    file.seek(form.offsetsize * 2 if form.offsetsize == 8 else 4)
    seen: set[int] = set()
    pages = 0
    while len(seen) < _MOST_PAGES:
        link = file.read(form.offsetsize)
        offset = int.from_bytes(link, byteorder)
        if len(link) < form.offsetsize or offset == 0 or offset in seen:
            break
        seen.add(offset)
        file.seek(offset)
        head = file.read(form.tagnosize)
        count = int.from_bytes(head, byteorder)
        if len(head) < form.tagnosize or count > 4096:
            break
        entries = file.read(count * entry)
        value = int.from_bytes(entries[entry - form.offsetsize :][:4], byteorder)
        pages += not (entries[:2] == kind and value & 1)
    return pages


def _said(file: BinaryIO) -> tuple[bytes | None, int, tuple[float, float] | None]:
    """EXIF block, orientation, dpi."""
    said = Image.Exif()
    file.seek(0)
    try:
        said.load_from_fp(file)
        dpi = _dpi(said)
        block, orientation = exif_blocks.taken(said, from_tiff=True)
    except Exception:  # BigTIFF, or tags that Pillow cannot repeat: the pixels do not need them
        return None, 1, None
    return block, orientation, dpi


def read(file: BinaryIO) -> np.ndarray:
    """The first page of a deep file: float32 (H,W,1..4) in [0,1], straight alpha, black is 0."""
    with _opened(file) as tiff:
        page = tiff.pages[0]
        # tifffile leaves these to imagecodecs, a package of 78 MB
        if page.compression in (_LZW, _LZMA, _ZSTD):
            whole = _by_libtiff(file, page)
        elif page.compression in (_DEFLATE, _OLD_DEFLATE):
            whole = _inflated(tiff, page)
        else:
            whole = page.asarray()
        photometric, extra = page.photometric, tuple(page.extrasamples)
        separate = page.planarconfig == 2 and whole.ndim == 3
    samples = np.asarray(whole, np.float32) / np.float32(65535)
    samples = np.atleast_3d(samples.transpose(1, 2, 0) if separate else samples)
    colours = 3 if photometric == _RGB else 1
    if photometric == _WHITE_IS_ZERO:
        samples[..., 0] = 1 - samples[..., 0]
    # An extra sample of unnamed meaning (0) is not taken for transparency.
    keep = colours + (len(extra) > 0 and extra[0] in (_PREMULTIPLIED, _STRAIGHT))
    samples = samples[..., :keep]
    if keep > colours and extra[0] == _PREMULTIPLIED:
        alpha = samples[..., -1:]
        np.divide(samples[..., :-1], alpha, out=samples[..., :-1], where=alpha > 0)
        np.minimum(samples, 1, out=samples)
    return samples


def _inflated(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> np.ndarray:
    """The uint16 (H,W,C) or (C,H,W) of a Deflate page. A strip or tile that unpacks to more than
    its pixels (tifffile would let it) gives no more than these."""
    planes, depth, height, width, channels = page.shaped
    rows, columns = (
        (page.tilelength, page.tilewidth)
        if page.is_tiled
        else (min(page.rowsperstrip, height), width)
    )
    most = rows * columns * channels * 2
    page.compression = 1  # for `decode`, which undoes what comes before the compression
    whole = np.zeros((planes, depth, height, width, channels), np.uint16)
    there = zip(page.dataoffsets, page.databytecounts, strict=True)
    for index, (offset, count) in zip(range(math.prod(page.chunked)), there, strict=False):
        if not count:
            continue
        tiff.filehandle.seek(offset)
        data = zlib.decompressobj().decompress(tiff.filehandle.read(count), most)
        block, (plane, _, y, x, _), _ = page.decode(data, index)
        place = whole[plane, 0, y : y + block.shape[1], x : x + block.shape[2]]
        place[:] = block[0, : place.shape[0], : place.shape[1]]
    return whole.reshape(page.shape)


def _by_libtiff(file: BinaryIO, page: tifffile.TiffPage) -> np.ndarray:
    """The uint16 (H,W,C) or (C,H,W) of a page, unpacked by Pillow's libtiff as if it were bytes."""
    separate = page.planarconfig == 2 and page.samplesperpixel > 1
    count = page.samplesperpixel if separate else 1
    each = len(page.dataoffsets) // count
    planes = [
        _bytes_by_libtiff(file, page, slice(n * each, (n + 1) * each), 1 if separate else None)
        for n in range(count)
    ]
    return np.stack([plane[..., 0] for plane in planes]) if separate else planes[0]


def _bytes_by_libtiff(
    file: BinaryIO, page: tifffile.TiffPage, which: slice, channels: int | None
) -> np.ndarray:
    """uint16 (H,W,C) of some of the strips or tiles: all, or those of one plane.

    A new directory is put before the file. It declares the same strips, or the tiles as strips
    one below the other, as 8-bit grey of 2 C times the width.
    """
    channels = channels or page.samplesperpixel
    height, width = page.imagelength, page.imagewidth
    rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (height, width)
    down, across = -(-height // rows), -(-width // columns)
    order = page.parent.byteorder
    tags = ImageFileDirectory_v2(prefix=b"II" if order == "<" else b"MM")
    tags[256], tags[257] = columns * channels * 2, rows * down * across
    tags[258], tags[259], tags[262], tags[277] = 8, int(page.compression), _BLACK_IS_ZERO, 1
    tags[278] = rows if page.is_tiled else page.rowsperstrip
    tags[273], tags[279] = tuple(page.dataoffsets[which]), tuple(page.databytecounts[which])
    as_bytes = io.BytesIO()
    tags.save(as_bytes)  # adds its own length to the strips' offsets
    file.seek(0)
    as_bytes.write(file.read())
    as_bytes.seek(0)
    samples = np.asarray(TiffImageFile(as_bytes)).view(f"{order}u2")
    samples = samples.reshape(down, across, rows, columns, channels)
    if page.predictor == 2:
        samples = np.cumsum(samples, 3, np.uint16)  # modulo 65536, as the predictor is
    samples = samples.swapaxes(1, 2).reshape(down * rows, across * columns, channels)
    return samples[:height, :width]


class Writer:
    """A little-endian Deflate TIFF at the start of `file` whose rows come some at a time: `add`
    them from the top, then `close`.

    size (height, width); channels 1 to 4, as in L, LA, RGB, RGBA; dtype uint8 or uint16. The
    directory, which stands before the strips, needs their lengths: they wait in a file without a
    name, in `folder` or where the system has such files.
    """

    def __init__(
        self,
        file: BinaryIO,
        size: tuple[int, int],
        channels: int,
        dtype: np.dtype,
        extras: Extras,
        folder: Path | None = None,
    ) -> None:
        self._file, self._size, self._channels, self._extras = file, size, channels, extras
        self._bits = bits = np.dtype(dtype).itemsize * 8
        self._rows = max(1, _STRIP_BYTES // (size[1] * channels * bits // 8))
        self._strips = tempfile.SpooledTemporaryFile(_SPOOL_BYTES, dir=folder)  # noqa: SIM115 (closed by `discard`)
        self._lengths: list[int] = []
        self._waiting: np.ndarray | None = None  # rows of a strip that is not full

    def add(self, samples: np.ndarray) -> None:
        """uint8 or uint16 (h,W,C), whole rows."""
        if self._waiting is not None:
            samples = np.concatenate([self._waiting, samples])
        full = len(samples) // self._rows * self._rows
        for y in range(0, full, self._rows):
            self._add_strip(samples[y : y + self._rows])
        self._waiting = samples[full:].copy()

    def close(self) -> None:
        """All rows are there."""
        if self._waiting is not None and len(self._waiting):
            self._add_strip(self._waiting)
        self._tags().save(self._file)
        self._strips.seek(0)
        shutil.copyfileobj(self._strips, self._file, _STRIP_BYTES)
        self.discard()

    def discard(self) -> None:
        """Nothing more will come: the strips are dropped."""
        self._strips.close()

    def _add_strip(self, rows: np.ndarray) -> None:
        strip = _strip(rows)
        self._strips.write(strip)
        self._lengths.append(len(strip))

    def _tags(self) -> ImageFileDirectory_v2:
        colours = 1 if self._channels < 3 else 3
        tags = exif_blocks.directory(self._extras.exif)
        tags[256], tags[257] = self._size[1], self._size[0]
        tags[258] = (self._bits,) * self._channels
        tags[259] = _DEFLATE
        tags[262] = _RGB if colours == 3 else _BLACK_IS_ZERO
        tags[277] = self._channels
        tags[278] = self._rows
        tags[279] = tuple(self._lengths)
        # counted from the end of the directory: Pillow adds where that is
        tags[273] = tuple(itertools.accumulate(self._lengths[:-1], initial=0))
        tags[282], tags[283] = self._extras.dpi or (1, 1)
        tags[296] = 2 if self._extras.dpi else 1  # inches, or no unit
        tags[317] = 2  # each sample less its left neighbour
        if self._channels > colours:
            tags[338] = _STRAIGHT
        if self._extras.icc:
            tags[34675] = self._extras.icc
        return tags


def _dpi(said: Image.Exif) -> tuple[float, float] | None:
    per_inch = {2: 1.0, 3: 2.54}.get(said.get(296, 2))  # 3: per centimetre; 1: no unit
    if per_inch is None or 282 not in said or 283 not in said:
        return None
    return float(said[282]) * per_inch, float(said[283]) * per_inch


def _strip(rows: np.ndarray) -> bytes:
    """uint8 or uint16 (h,W,C) -> predicted and compressed, little-endian."""
    difference = rows.copy()
    difference[:, 1:] -= rows[:, :-1]  # modulo 256 or 65536, as the predictor is
    return zlib.compress(difference.astype(rows.dtype.newbyteorder("<")).tobytes(), _LEVEL)
