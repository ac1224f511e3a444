"""TIFF: what its directory declares, its 16-bit samples, and writing it at either depth.

tifffile reads. Writing lays the strips behind a directory made here, for tifffile's writer cannot
keep an Exif or GPS directory, and Pillow's loses bytes of texts and cannot write 16-bit colour.
"""

from __future__ import annotations

import ctypes
import io
import itertools
import math
import os
import shutil
import tempfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
import tifffile
from PIL import Image, ImagePalette
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from upscale.errors import InputError
from upscale.image import boxes, exif
from upscale.image.carried import Carried, Spliced, of_tiff
from upscale.image.picture import Extras

_STRIP_BYTES = 1 << 20
_SPOOL_BYTES = 64 << 20  # of strips that wait in memory; more of them wait on the disk
_LEVEL = 6  # zlib's own default
_LZW, _DEFLATE, _OLD_DEFLATE, _LZMA, _ZSTD = 5, 8, 32946, 34925, 50000
_BEST = {1: 1, _LZW: 2731, _DEFLATE: 1032, _OLD_DEFLATE: 1032, 32773: 64}  # bytes of a byte
_TURNED = bytes(int(f"{n:08b}"[::-1], 2) for n in range(256))  # the bits of bytes (FillOrder 2)
_MOST_PAGES = 1_000_000  # counted
_MOST_SAMPLES = 32  # of a pixel
_MOST_TILE = 4096**2  # pixels of a tile larger than the picture
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_CFA, _LINEAR_RAW = 32803, 34892
_PHOTOMETRICS = {_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB}
_OUR_COMPRESSIONS = {1, _LZW, _DEFLATE, _OLD_DEFLATE, _LZMA, _ZSTD, 32773}
_COMPRESSIONS = _OUR_COMPRESSIONS | {2, 3, 4, 6, 7, 32771, 32809}
_INSTEAD = (
    "save it in grey or RGB, with 8 or 16 bits a channel, by LZW, Deflate or without compression"
)
_PREMULTIPLIED, _STRAIGHT = 1, 2  # ExtraSamples
_DNG_VERSION, _TRANSFER, _PRIMARIES, _ICC, _C2PA = 50706, 301, 319, 34675, 52545
_COLOUR_MAP, _SUBSAMPLING, _REFERENCE = 320, 530, 532


@dataclass(frozen=True)
class Header:
    size: tuple[int, int]  # as stored, before any orientation
    ours: bool  # for `read`: grey or RGB of 16 bits, or of 8 where Pillow cannot; the rest is its
    missing: float  # the share of the strips or tiles that lie beyond the end of the file
    taken: exif.Taken
    carried: Carried


def header(file: BinaryIO) -> Header:
    """What the first page declares. InputError for a damaged directory, and for a camera's raw
    file, whose first page is only a thumbnail."""
    try:
        with _opened(file) as tiff:
            page = tiff.pages[0]
            _check_bounds(page)
            raw = page.photometric in (_CFA, _LINEAR_RAW) or page.is_reduced
            raw = raw or _DNG_VERSION in page.tags
            ours = (
                (page.bitspersample == 16 or (page.bitspersample == 8 and _odd(page)))
                and page.sampleformat == 1
                and page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
            )
            size = (page.imagelength, page.imagewidth)
            ends = [sum(at) for at in zip(page.dataoffsets, page.databytecounts, strict=True)]
            missing = sum(end > tiff.filehandle.size for end in ends) / len(ends)
            unread = None if raw else _unread(page, ours)
            notes = _left_out(page) + _colours(page) + [boxes.CREDENTIALS] * (_C2PA in page.tags)
            bits = max(np.atleast_1d(page.bitspersample))
    except InputError:
        raise
    except Exception as error:  # whatever tifffile stumbles over
        raise InputError(
            "the TIFF's directory is missing or damaged; the file was probably cut short: get it "
            "again"
        ) from error
    if raw:
        raise InputError("a camera's raw file; develop it to a TIFF or JPEG first")
    if unread:
        raise InputError(f"a TIFF {unread}; {_INSTEAD}")
    read = exif.parsed(file, of_tiff=True) or exif.Read("<", {}, [], 1)
    found = of_tiff(read)
    found.bits, found.notes = int(bits), notes
    return Header(size, ours, missing, exif.taken_of(read), found)


def _odd(page: tifffile.TiffPage) -> bool:
    """Whether Pillow refuses or misreads channels of 8 bits beside the colours."""
    colours, samples = (3 if page.photometric == _RGB else 1), page.samplesperpixel
    planes = page.planarconfig == 2 and samples > colours
    # Pillow takes the fourth of RGB for transparency where nothing is said of it, and rounds down
    # what was multiplied into colours
    known = colours == 3 and page.extrasamples[:1] in ((0,), (_STRAIGHT,))
    odd = planes or samples > colours + known or page.fillorder == 2
    return odd and page.compression in _OUR_COMPRESSIONS


def _unread(page: tifffile.TiffPage, ours: bool) -> str | None:
    """What there is about a page that neither tifffile nor Pillow reads here."""
    samples = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
    kinds, bits = set(np.atleast_1d(page.sampleformat)), set(np.atleast_1d(page.bitspersample))
    if odd := kinds & samples.keys():
        return (
            f"of {samples[odd.pop()]} samples of {max(bits)} bits, which have no known black and "
            "white"
        )
    if len(bits) > 1 or not bits <= {1, 2, 4, 8, 16}:
        return f"of {' and '.join(map(str, sorted(bits)))} bits a sample, which diffsr cannot read"
    for value, known, words in (
        (page.photometric, _PHOTOMETRICS, "of {} colours"),
        (page.compression, _OUR_COMPRESSIONS if ours else _COMPRESSIONS, "compressed by {}"),
    ):
        if value not in known:
            return words.format(getattr(value, "name", value)) + ", which diffsr cannot read"
    if page.imagedepth > 1:
        return f"of {page.imagedepth} layers in depth, which diffsr cannot read"
    if page.photometric == _YCBCR and page.compression == 1 and not _plain_ycbcr(page):
        return "of subsampled YCbCr colours without compression, which diffsr cannot read"
    if page.planarconfig == 2 and page.samplesperpixel > 1:  # of which Pillow makes garbage
        if page.photometric == _CMYK and bits == {16} and page.compression == 1:
            return "of CMYK in planes of 16 bits without compression, which diffsr cannot read"
        if page.photometric in (_PALETTE, _LAB):
            kind = "Lab" if page.photometric == _LAB else "a palette and transparency"
            return f"of {kind} in planes, which diffsr cannot read"
    empty = zip(page.dataoffsets, page.databytecounts, strict=True)
    if ours and any(at and not count for at, count in empty):  # at 0 is what was left out
        return "whose strips are said to hold no bytes"
    return None


def _plain_ycbcr(page: tifffile.TiffPage) -> bool:
    """Whether uncompressed YCbCr is laid out as RGB would be, in its whole range."""
    told = [page.tags.get(code) for code in (_SUBSAMPLING, _REFERENCE)]
    subsampling, reference = (tag.value if tag else None for tag in told)
    ends = None if reference is None else np.reshape(reference, (-1, 2)).astype(float)
    whole = ends is None or np.array_equal(
        ends[:, 0] / np.maximum(ends[:, 1], 1), (0, 255, 128, 255, 128, 255)
    )
    return page.planarconfig == 1 and subsampling == (1, 1) and whole


def _colours(page: tifffile.TiffPage) -> list[str]:
    """A note where primaries or a curve other than sRGB's are declared, and no profile."""
    if _ICC in page.tags:
        return []
    primaries = page.tags.get(_PRIMARIES)
    odd = _TRANSFER in page.tags
    if primaries is not None and len(primaries.value) == 12:
        pairs = np.reshape(primaries.value, (6, 2)).astype(float)
        found = pairs[:, 0] / np.maximum(pairs[:, 1], 1)
        odd |= bool(np.abs(found - (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)).max() > 0.003)
    if not odd:
        return []
    return ["primaries or a curve that the TIFF gives without a profile are not understood: its "
            "colours are taken for sRGB"]  # fmt: skip


def _left_out(page: tifffile.TiffPage) -> list[str]:
    colours = {_RGB: 3, _YCBCR: 3, _LAB: 3, _CMYK: 4}.get(page.photometric, 1)
    more = page.samplesperpixel - colours
    if page.extrasamples and page.extrasamples[0] in (_PREMULTIPLIED, _STRAIGHT):
        more -= 1
    if more <= 0:
        return []
    channels = "a further channel" if more == 1 else f"{more} further channels"
    return [f"{channels} of the TIFF, not named as transparency, left out"]


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
    best = _BEST.get(page.compression)
    if best is None or page.photometric == _YCBCR or 0 in page.databytecounts:  # fewer, or none
        return
    bits = int(np.max(page.bitspersample)) * page.samplesperpixel
    if page.imagelength * page.imagewidth * bits > sum(page.databytecounts) * 8 * best:
        raise InputError(
            f"the TIFF is cut short or damaged: {sum(page.databytecounts)} bytes cannot hold "
            f"{page.imagewidth}x{page.imagelength} pixels; get it again"
        )


def pages(file: BinaryIO) -> list[int]:
    """Where the directories of full-sized pages are, of up to _MOST_PAGES. Only the links from page
    to page and the tags that say what a page is are read; a link to where the walk has been ends
    it."""
    file.seek(0)
    byteorder, big = ("little" if file.read(1) == b"I" else "big"), _is_big(file)
    kind = (254).to_bytes(2, byteorder)  # NewSubfileType, the lowest tag there is
    offsetsize, tagnosize, entry = (8, 8, 20) if big else (4, 2, 12)
    file.seek(8 if big else 4)
    seen: set[int] = set()
    found: list[int] = []
    while len(seen) < _MOST_PAGES:
        link = file.read(offsetsize)
        offset = int.from_bytes(link, byteorder)
        if len(link) < offsetsize or offset == 0 or offset in seen:
            break
        seen.add(offset)
        file.seek(offset)
        head = file.read(tagnosize)
        count = int.from_bytes(head, byteorder)
        if len(head) < tagnosize or count > 4096:
            break
        entries = file.read(count * entry)
        value = int.from_bytes(entries[entry - offsetsize :][:4], byteorder)
        if not (entries[:2] == kind and value & 1):
            found.append(offset)
    return found


def page(file: BinaryIO, offset: int) -> BinaryIO:
    """The file as if the page whose directory is there were its first."""
    file.seek(0)
    head = file.read(4)
    byteorder = "little" if head[:1] == b"I" else "big"
    if _is_big(file):
        file.seek(0)
        head = file.read(8) + offset.to_bytes(8, byteorder)
    else:
        head += offset.to_bytes(4, byteorder)
    end = file.seek(0, io.SEEK_END)
    parts = [(io.BytesIO(head), 0, len(head)), (file, len(head), end)]
    return io.BufferedReader(Spliced(parts), 1 << 16)


def _is_big(file: BinaryIO) -> bool:
    """Whether it is a BigTIFF, whose offsets have 8 bytes."""
    file.seek(2)
    return 43 in file.read(2)


@cache
def _hush() -> None:
    """libtiff's remarks on damaged files go straight to standard error, where Pillow has no say:
    its handler of errors is taken away, in the library that Pillow has loaded."""
    home = Path(PIL.__file__).parent
    bundled = [*home.parent.glob("pillow.libs/libtiff*"), *home.glob(".dylibs/libtiff*")]
    for name in (*map(str, bundled), "libtiff.so.6", "libtiff.so.5"):
        with suppress(OSError, AttributeError):  # not that one, or not on this system
            library = ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
            library.TIFFSetErrorHandler.restype = ctypes.c_void_p
            library.TIFFSetErrorHandler(None)


class _AsStored(TiffImageFile):
    """Without Pillow's turning, which fails on odd tags."""

    def load_end(self) -> None:
        pass


def image(file: BinaryIO) -> Image.Image:
    """A file that is not deep, by Pillow, as stored. InputError for kinds that it cannot read."""
    _hush()
    if classic := exif.classic_layout(file):
        head, tail = (io.BytesIO(part) for part in classic)
        end = file.seek(0, io.SEEK_END)
        parts = [(head, 0, 8), (file, 8, end), (tail, 0, len(classic[1]))]
        file = io.BufferedReader(Spliced(parts), 1 << 16)
    elif patch := exif.layout_alone(file):  # one odd tag costs Pillow all that follow it
        at, entries = patch
        after, end = at + len(entries), file.seek(0, io.SEEK_END)
        parts = [(file, 0, at), (io.BytesIO(entries), 0, len(entries)), (file, after, end)]
        file = io.BufferedReader(Spliced(parts), 1 << 16)
    file.seek(0)
    try:
        im = _AsStored(file)
    except (SyntaxError, KeyError) as error:
        raise InputError(f"a TIFF of a kind that diffsr cannot read; {_INSTEAD}") from error
    im._size = im._tile_size
    ramps = im.tag_v2.get(_COLOUR_MAP, ())
    if im.mode == "P" and 0 < max(ramps, default=0) < 256:  # of old writers: 8 bits, not 16
        im.palette = ImagePalette.raw("RGB;L", bytes(ramps))
    return im


def read(file: BinaryIO) -> np.ndarray:
    """The first page of a file that is `ours`: float32 (H,W,1..4) in [0,1], straight alpha, black
    is 0."""
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
    samples = np.asarray(whole, np.float32) / np.float32(np.iinfo(whole.dtype).max)
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
    """uint8 or uint16 (H,W,C) or (C,H,W) of a Deflate page. A strip or tile that unpacks to more
    than its pixels (tifffile would let it) gives no more than these."""
    planes, depth, height, width, channels = page.shaped
    rows, columns = (
        (page.tilelength, page.tilewidth)
        if page.is_tiled
        else (min(page.rowsperstrip, height), width)
    )
    most = rows * columns * channels * page.dtype.itemsize
    turned = _TURNED if page.fillorder == 2 else None
    page.compression = page.fillorder = 1  # for `decode`, which undoes what came before these
    whole = np.zeros((planes, depth, height, width, channels), page.dtype)
    there = zip(page.dataoffsets, page.databytecounts, strict=True)
    for index, (offset, count) in zip(range(math.prod(page.chunked)), there, strict=False):
        if not count:
            continue
        tiff.filehandle.seek(offset)
        data = zlib.decompressobj().decompress(tiff.filehandle.read(count).translate(turned), most)
        block, (plane, _, y, x, _), _ = page.decode(data, index)
        place = whole[plane, 0, y : y + block.shape[1], x : x + block.shape[2]]
        place[:] = block[0, : place.shape[0], : place.shape[1]]
    return whole.reshape(page.shape)


def _by_libtiff(file: BinaryIO, page: tifffile.TiffPage) -> np.ndarray:
    """uint8 or uint16 (H,W,C) or (C,H,W) of a page, unpacked by Pillow's libtiff as if it were
    bytes."""
    _hush()
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
    """uint8 or uint16 (H,W,C) of some of the strips or tiles: all, or those of one plane.

    A new directory is put before the file. It declares the same strips, or the tiles as strips
    one below the other, as 8-bit grey of C or 2 C times the width.
    """
    channels = channels or page.samplesperpixel
    height, width = page.imagelength, page.imagewidth
    rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (height, width)
    down, across = -(-height // rows), -(-width // columns)
    order = page.parent.byteorder
    tags = ImageFileDirectory_v2(prefix=b"II" if order == "<" else b"MM")
    tags[256], tags[257] = columns * channels * page.dtype.itemsize, rows * down * across
    tags[258], tags[259], tags[262], tags[277] = 8, int(page.compression), _BLACK_IS_ZERO, 1
    tags[266] = int(page.fillorder)
    tags[278] = rows if page.is_tiled else page.rowsperstrip
    tags[273], tags[279] = tuple(page.dataoffsets[which]), tuple(page.databytecounts[which])
    as_bytes = io.BytesIO()
    tags.save(as_bytes)  # adds its own length to the strips' offsets
    file.seek(0)
    as_bytes.write(file.read())
    as_bytes.seek(0)
    samples = np.asarray(TiffImageFile(as_bytes)).view(f"{order}u{page.dtype.itemsize}")
    samples = samples.reshape(down, across, rows, columns, channels)
    if page.predictor == 2:
        samples = np.cumsum(samples, 3, page.dtype)  # modulo 256 or 65536, as the predictor is
    samples = samples.swapaxes(1, 2).reshape(down * rows, across * columns, channels)
    return samples[:height, :width]


class Writer:
    """A Deflate TIFF at the start of `file` whose rows come some at a time: `add`
    them from the top, then `close`.

    size (height, width); channels 1 to 4, as in L, LA, RGB, RGBA; dtype uint8 or uint16. The
    directory, which stands before the strips, needs their lengths: they wait in a file without a
    name, in `folder` or where the system has such files. base: where in the file a page after the
    first begins; more: another page follows, at `end` once this one is closed; order: of bytes,
    "<" or ">", the EXIF's own if it has any.
    """

    def __init__(
        self,
        file: BinaryIO,
        size: tuple[int, int],
        channels: int,
        dtype: np.dtype,
        extras: Extras,
        folder: Path | None = None,
        base: int = 0,
        more: bool = False,
        order: str | None = None,
    ) -> None:
        self._file, self._size, self._channels, self._extras = file, size, channels, extras
        self._base, self._more, self.end = base, more, base
        own, self._said = exif.tags_of(extras.exif)  # whose bytes stay as they are
        self._order = order or own
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
        directory = self._directory()
        strips = sum(self._lengths)
        self._file.write(directory)
        self._strips.seek(0)
        shutil.copyfileobj(self._strips, self._file, _STRIP_BYTES)
        self._file.write(bytes(strips % 2))  # the next page begins at an even place
        self.discard()

    def discard(self) -> None:
        """Nothing more will come: the strips are dropped."""
        self._strips.close()

    def _add_strip(self, rows: np.ndarray) -> None:
        strip = _strip(rows, self._order)
        self._strips.write(strip)
        self._lengths.append(len(strip))

    def _directory(self) -> bytes:
        order, said, extras = self._order, self._said, self._extras
        colours = 1 if self._channels < 3 else 3

        def short(*numbers: int) -> exif.Value:
            return exif.whole(order, exif.SHORT, *numbers)

        def long(*numbers: int) -> exif.Value:
            return exif.whole(order, exif.LONG, *numbers)

        tags = {tag: value for tag, value in said.items() if tag in exif.ABOUT}
        tags[256], tags[257] = long(self._size[1]), long(self._size[0])
        tags[258] = short(*[self._bits] * self._channels)
        tags[259] = short(_DEFLATE)
        tags[262] = short(_RGB if colours == 3 else _BLACK_IS_ZERO)
        tags[277] = short(self._channels)
        tags[278] = long(self._rows)
        tags[279] = long(*self._lengths)
        densities, unit = extras.dpi or extras.aspect or (1, 1), 2 if extras.dpi else 1
        tags |= exif.resolution(order, densities, unit)
        tags[317] = short(2)  # each sample less its left neighbour
        if self._channels > colours:
            tags[338] = short(_STRAIGHT)
        blocks = {700: (exif.BYTE, extras.xmp), 33723: (exif.UNDEFINED, extras.iptc),
                  34675: (exif.UNDEFINED, extras.icc)}  # fmt: skip
        tags |= {tag: exif.Value(kind, data) for tag, (kind, data) in blocks.items() if data}
        starts = list(itertools.accumulate(self._lengths[:-1], initial=0))
        tags[273] = long(*starts)
        # where the strips begin
        first = self._base + len(exif.laid_out(order, tags, self._base))
        tags[273] = long(*(first + start for start in starts))
        strips = sum(self._lengths)
        self.end = first + strips + strips % 2
        return exif.laid_out(order, tags, self._base, self.end if self._more else 0)


def _strip(rows: np.ndarray, order: str) -> bytes:
    """uint8 or uint16 (h,W,C) -> predicted and compressed, in a byte order."""
    difference = rows.copy()
    difference[:, 1:] -= rows[:, :-1]  # modulo 256 or 65536, as the predictor is
    return zlib.compress(difference.astype(rows.dtype.newbyteorder(order)).tobytes(), _LEVEL)
