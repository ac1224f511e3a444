"""What a file carries besides its pixels: kept, converted or told, in every format, each tag on its
own. A second reader checks: the bytes themselves, taken apart here, or tifffile."""

import io
import re
import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
from picture_files import SRGB, saved, smooth, whole
from PIL import Image, ImageCms

from upscale.errors import InputError
from upscale.image import exif, jpeg, profile, xmp
from upscale.image.carried import carried
from upscale.image.decode import read
from upscale.image.encode import write
from upscale.image.picture import Picture
from upscale.image.pillow import picture_of, pillow_of

FORMATS = ["PNG", "JPEG", "WEBP", "TIFF", "AVIF", "GIF", "BMP", "PPM", "TGA"]
WORDS = "Leuchtturm, маяк, 灯台".encode()
PACKET = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:Description dc:title="\xd0\xbc"/></x:xmpmeta><?xpacket end="w"?>'
)
RECORDS = b"\x1c\x02\x05\x00\x0aLighthouse"
LINEAR = struct.pack(">I", 100000)
WIDE = struct.pack(">8I", 31270, 32900, 70800, 29200, 17000, 79700, 13100, 4600)


def directory(*entries: tuple[int, int, bytes], order: str = "<", next: int = 0) -> bytes:
    """A TIFF of tags (tag, type, value): the inside of an EXIF block, made by hand."""
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 12: 8, 99: 1}
    at, table, body = 8 + 2 + 12 * len(entries) + 4, b"", b""
    for tag, kind, value in entries:
        field = value.ljust(4, b"\0")
        if len(value) > 4:
            field = struct.pack(f"{order}I", at + len(body))
            body += value + bytes(len(value) % 2)
        table += struct.pack(f"{order}HHI", tag, kind, len(value) // sizes[kind]) + field
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HIH", 42, 8, len(entries))
    return head + table + struct.pack(f"{order}I", next) + body


def short(n: int, order: str = "<") -> bytes:
    return struct.pack(f"{order}H", n)


def segments(data: bytes) -> list[tuple[int, bytes]]:
    """Of a JPEG, before its scan."""
    found, at = [], 2
    while data[at + 1] != 0xDA:
        length = struct.unpack(">H", data[at + 2 : at + 4])[0]
        found.append((data[at + 1], data[at + 4 : at + 2 + length]))
        at += 2 + length
    return found


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Of a PNG."""
    found, at = [], 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length :][:4])[0] == zlib.crc32(kind + body)
        found.append((kind, body))
        at += 12 + length
    return found


def riff(data: bytes) -> dict[bytes, bytes]:
    """The chunks of a WebP."""
    found, at = {}, 12
    while at < len(data):
        kind, length = struct.unpack("<4sI", data[at : at + 8])
        found[kind] = data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    return found


def with_chunks(data: bytes, *extra: tuple[bytes, bytes]) -> io.BytesIO:
    """A PNG with more chunks before its pixels."""
    added = b"".join(
        struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in extra
    )
    at = data.index(b"IDAT") - 4
    return io.BytesIO(data[:at] + added + data[at:])


def with_exif(block: bytes, format: str) -> io.BytesIO:
    options = {"lossless": True} if format == "WEBP" else {}
    return saved(whole(7, 3, 3), format, exif=b"Exif\0\0" + block, **options)


def written(picture: Picture, format: str, **options: object) -> tuple[bytes, list[str]]:
    file = io.BytesIO()
    notes = write(picture, file, format=format, **options)
    return file.getvalue(), notes


# ---- the table -----------------------------------------------------------------------------------


def full() -> Picture:
    """A picture that carries everything."""
    block = directory((270, 2, WORDS + b"\0"), (271, 2, b"Maker\0"))
    texts = ((b"tEXt", b"parameters\0a lighthouse"),)
    rgb = np.random.default_rng(0).random((9, 14, 3), np.float32)
    return Picture(
        rgb, np.linspace(0, 1, 126, dtype=np.float32).reshape(9, 14), 16, exif=b"Exif\0\0" + block,
        dpi=(72, 144), xmp=PACKET, iptc=RECORDS, comments=(b"by hand",), texts=texts, icc=SRGB,
    )  # fmt: skip


def second_look(data: bytes, format: str) -> set[str]:
    """What a file holds, by other eyes than `read`'s."""
    there = set()
    if format == "TIFF":
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            page = tiff.pages[0]
            tags = {tag.code: tag.value for tag in page.tags.values()}
            fields = {"XMP": (700, PACKET), "IPTC": (33723, RECORDS), "ICC": (34675, SRGB)}
            there |= {name for name, (code, value) in fields.items() if tags.get(code) == value}
            there |= {"EXIF"} if tags.get(270, "").encode() == WORDS else set()
            there |= (
                {"dpi"} if (tags[282], tags[283], tags[296]) == ((72, 1), (144, 1), 2) else set()
            )
            there |= {"depth"} if page.bitspersample == 16 else set()
            there |= {"alpha"} if page.extrasamples == (2,) else set()
            there |= {"orientation"} if tags.get(274) == 1 else set()
        return there
    if format == "PNG":
        found = chunks(data)
        kinds = dict(found)
        blocks = [kinds.get(b"eXIf", b"")]
        texts = [body for kind, body in found if kind in (b"tEXt", b"iTXt", b"zTXt")]
        there |= {"XMP"} if b"XML:com.adobe.xmp\0\0\0\0\0" + PACKET in texts else set()
        raw = next((t for t in texts if t.startswith(b"Raw profile type iptc\0")), b"")
        hexadecimal = zlib.decompress(raw.split(b"\0", 2)[2]).split() if raw else [b""]
        there |= {"IPTC"} if bytes.fromhex(b"".join(hexadecimal[2:]).decode()) == RECORDS else set()
        there |= {"comment"} if b"Comment\0by hand" in texts else set()
        there |= {"text"} if b"parameters\0a lighthouse" in texts else set()
        icc = kinds.get(b"iCCP", b"\0\0")
        there |= {"ICC"} if icc[5:] and zlib.decompress(icc[5:]) == SRGB else set()
        there |= {"dpi"} if kinds.get(b"pHYs") == struct.pack(">IIB", 2835, 5669, 1) else set()
        there |= {"depth"} if kinds[b"IHDR"][8] == 16 else set()
        there |= {"alpha"} if kinds[b"IHDR"][9] == 6 else set()
    elif format == "JPEG":
        found = segments(data)
        blocks = [body[6:] for kind, body in found if kind == 0xE1 and body.startswith(b"Exif\0\0")]
        bodies = [body for _, body in found]
        there |= {"XMP"} if b"http://ns.adobe.com/xap/1.0/\0" + PACKET in bodies else set()
        resource = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(RECORDS)) + RECORDS
        there |= {"IPTC"} if any(body.startswith(resource) for body in bodies) else set()
        there |= {"comment"} if (0xFE, b"by hand") in found else set()
        there |= {"ICC"} if b"ICC_PROFILE\0\1\1" + SRGB in bodies else set()
        there |= {"dpi"} if found[0][1][7:12] == struct.pack(">BHH", 1, 72, 144) else set()
    elif format == "WEBP":
        found = riff(data)
        blocks = [found.get(b"EXIF", b"")]
        there |= {"XMP"} if found.get(b"XMP ") == PACKET else set()
        there |= {"ICC"} if found.get(b"ICCP") == SRGB else set()
        there |= {"alpha"} if found[b"VP8X"][0] & 0x10 else set()
    elif format == "AVIF":
        start = data.find(b"II*\0")
        blocks = [data[start:]] if start > 0 else []
        there |= {"XMP"} if PACKET in data else set()
        there |= {"ICC"} if b"colrprof" + SRGB in data else set()
        there |= {"alpha"} if b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha" in data else set()
    else:
        blocks = []
        there |= {"comment"} if b"!\xfe\x07by hand\0" in data else set()
        there |= {"XMP"} if b"!\xff\x0bXMP DataXMP" + PACKET in data else set()
        if format == "PPM":
            there |= {"depth"} if data.split()[3] == b"65535" else set()
        if format == "TGA":
            there |= {"alpha"} if (data[16], data[17] & 15) == (32, 8) else set()
        if format == "BMP":
            there |= {"dpi"} if struct.unpack("<ii", data[38:46]) == (2835, 5669) else set()
        if format == "GIF":
            there |= {"alpha"} if b"!\xf9\x04\x01" in data else set()
    for block in filter(None, blocks):
        there |= {"EXIF"} if WORDS in block else set()
        with tifffile.TiffFile(io.BytesIO(block)) as tiff:
            tags = {tag.code: tag.value for tag in tiff.pages[0].tags.values()}
        there |= {"orientation"} if tags.get(274, 1) == 1 else set()
        if format in ("WEBP", "AVIF"):
            resolution = (tags.get(282), tags.get(283), tags.get(296))
            there |= {"dpi"} if resolution == ((72, 1), (144, 1), 2) else set()
    return there


def table() -> dict[str, dict[str, str]]:
    """docs/upscale.md's: what is carried -> format -> kept, converted, reported or, of what goes
    for a picture that cannot have it, -."""
    text = (Path(__file__).parents[1] / "docs" / "upscale.md").read_text("utf-8")
    lines = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line] for line in lines]
    head = next(row for row in rows if row[1:3] == ["PNG", "JPEG"])
    at = rows.index(head)
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows[at + 2 : at + 13]}


NAMED = {  # words of the note, of what a format reports
    "EXIF": "EXIF", "orientation": None, "XMP": "XMP", "IPTC": "IPTC", "comment": "the comment",
    "ICC": "profile", "dpi": "resolution", "depth": "8 bits", "alpha": "transparency",
    "text": "parameters",
}  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
def test_the_table_of_what_is_kept(format):
    picture = full()
    data, notes = written(picture, format)
    there, rows = second_look(data, format), table()
    assert set(rows) == {*NAMED, "gAMA, cHRM, cICP"}
    for name, words in NAMED.items():
        cell = rows[name][format].split()[0]
        assert cell in ("kept", "converted", "reported"), (name, format)
        if name == "orientation":  # the pixels stand upright; no tag says otherwise
            assert cell == "kept"
            assert "orientation" in there or "EXIF" not in there
            continue
        assert (name in there) == (cell == "kept"), (name, format)
        if cell != "kept":
            assert any(words in note for note in notes), (name, format, notes)
    # alpha of a GIF is all or nothing: kept, as far as it goes


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "said", [(b"gAMA", LINEAR), (b"cHRM", WIDE), (b"cICP", bytes([9, 16, 0, 1]))]
)
def test_colours_said_by_a_png(said, format):
    plain = np.full((9, 14, 3), 100, np.uint8)
    picture = read(with_chunks(saved(plain, "PNG").getvalue(), said))
    data, notes = written(picture, format, quality=100)
    cell = table()["gAMA, cHRM, cICP"][format].split()[0]
    back = read(io.BytesIO(data))
    if cell == "kept":
        assert said in chunks(data)
        assert b"iCCP" not in dict(chunks(data))
        assert notes == []
    elif format in ("BMP", "GIF", "PPM", "TGA"):
        assert cell == "converted"
        assert any("converted to sRGB" in note for note in notes)
        want = ImageCms.profileToProfile(
            Image.fromarray(plain), ImageCms.ImageCmsProfile(io.BytesIO(picture.icc)),
            ImageCms.createProfile("sRGB"), renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )  # fmt: skip
        np.testing.assert_allclose(back.rgb * 255, np.asarray(want), atol=4)
    else:
        assert cell == "converted"
        assert any(said[0].decode() in note for note in notes)
        assert back.icc == picture.icc
        np.testing.assert_allclose(back.rgb, picture.rgb, atol=0.02)


# ---- EXIF: every tag on its own ------------------------------------------------------------------

ODD = {
    "double": (272, 12, bytes(8)), "rational": (270, 5, bytes(8)), "unknown type": (272, 99, b"12"),
    "beyond the end": None,
}  # fmt: skip


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("odd", ODD)
def test_an_odd_tag_costs_only_itself(odd, format):
    entries = [(271, 2, b"Maker\0"), (274, 3, short(6))]
    block = directory(*sorted([*entries, *([ODD[odd]] if ODD[odd] else [])]))
    if ODD[odd] is None:
        block = bytearray(directory(*entries, (305, 2, b"Software\0")))
        at = block.index(struct.pack("<HH", 305, 2)) + 8
        block[at : at + 4] = struct.pack("<I", 2**31)
    file = with_exif(bytes(block), format) if format != "AVIF" else avif_with(bytes(block))
    picture = read(file)
    turned = format != "AVIF"  # there boxes say so, not EXIF
    assert picture.size == ((3, 7) if turned else (7, 3))
    assert b"Maker" in picture.exif
    name = {272: "Model", 270: "ImageDescription"}.get(ODD[odd] and ODD[odd][0], "Software")
    assert any(f"left out: {name}" in note for note in picture.notes)
    assert b"Maker" in read(io.BytesIO(written(picture, "TIFF")[0])).exif


def avif_with(block: bytes) -> io.BytesIO:
    """Pillow refuses to write an odd block, so a sound one of the same length is overwritten."""
    sound = directory((271, 2, b"Maker\0"), (305, 2, b"x" * (len(block) - 8 - 2 - 24 - 4 - 6)))
    assert len(sound) - len(block) in (0, 1)
    data = saved(whole(7, 3, 3), "AVIF", exif=b"Exif\0\0" + sound).getvalue()
    at = data.index(sound[:8])
    return io.BytesIO(data[:at] + block + data[at + len(block) :])


@pytest.mark.parametrize(("kind", "value"), [(1, b"\6"), (3, short(6)), (4, b"\6\0\0\0")])
def test_orientation_of_any_integer_type(kind, value):
    picture = read(with_exif(directory((271, 2, b"Maker\0"), (274, kind, value)), "JPEG"))
    assert picture.size == (3, 7)
    block = dict(segments(written(picture, "JPEG")[0]))[0xE1]
    assert struct.pack("<HHIHH", 274, 3, 1, 1, 0) in block


@pytest.mark.parametrize("value", [short(6), short(6) + short(0), short(6) * 3])
def test_an_orientation_that_viewers_pass_over_is_told(value):
    picture = read(with_exif(directory((271, 2, b"Maker\0"), (274, 3, value)), "JPEG"))
    one = len(value) == 2
    assert picture.size == ((3, 7) if one else (7, 3))
    assert any("Orientation" in note for note in picture.notes) is not one


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("odd", [False, True])
def test_tiff_and_bigtiff_alike(odd, big, order, bits):
    file = io.BytesIO()
    tifffile.imwrite(
        file, whole(7, 3, 3, bits=bits), photometric="rgb", metadata=None, bigtiff=big,
        byteorder=order, description="Lighthouse", resolution=(300, 300), resolutionunit="INCH",
        extratags=[(274, 3, 1, 6, True), *([(272, 12, 1, 0.5, True)] if odd else [])],
    )  # fmt: skip
    file.seek(0)
    picture = read(file)
    assert np.array_equal(
        np.rint(picture.rgb * (2**bits - 1)), np.rot90(whole(7, 3, 3, bits=bits), -1)
    )
    assert picture.dpi == (300, 300)
    assert b"Lighthouse" in picture.exif
    assert any("Model" in note for note in picture.notes) == odd


def test_bytes_of_texts_go_through_all_formats():
    latin, kanji = "Müller".encode("latin-1"), "灯台".encode("shift-jis")
    block = directory((270, 2, WORDS + b"\0"), (271, 2, latin + b"\0"), (315, 2, kanji + b"\0"))
    picture = read(with_exif(block, "JPEG"))
    for format in ("PNG", "WEBP", "TIFF", "AVIF", "JPEG"):
        picture = read(io.BytesIO(written(picture, format)[0]))
        assert all(words in picture.exif for words in (WORDS, latin, kanji)), format


@pytest.mark.parametrize("format", ["TIFF", "JPEG", "PNG"])
def test_names_of_a_document_and_its_page_are_kept(format):
    file, names = io.BytesIO(), {269: b"Scan 12\0", 285: b"page 3\0"}
    extra = [(tag, 2, len(name), name[:-1].decode(), True) for tag, name in names.items()]
    tifffile.imwrite(file, whole(7, 3, 3), photometric="rgb", metadata=None, extratags=extra)
    file.seek(0)
    data, notes = written(read(file), format)
    kept = exif.tags_of(read(io.BytesIO(data)).exif)[1]
    assert {tag: kept[tag].data for tag in names} == names
    assert notes == []


def test_the_makers_note_stays_where_its_own_offsets_lead():
    note = b"NOTE" + struct.pack("<I", 60) + bytes(range(40))
    inner = directory((0x927C, 7, note), (0x829A, 5, bytes(8)))
    # the inner directory behind the outer one, its offsets counted from the block's beginning
    start = 8 + 2 + 24 + 4
    moved = bytearray(inner[8:])
    for at in (2 + 8, 14 + 8):
        moved[at : at + 4] = struct.pack(
            "<I", struct.unpack("<I", moved[at : at + 4])[0] + start - 8
        )
    outer = directory((271, 2, b"Mkr\0"), (0x8769, 4, struct.pack("<I", start)))
    block = outer + bytes(moved)
    place = block.index(note)
    picture = read(with_exif(block, "PNG"))
    for format in ("JPEG", "TIFF", "PNG"):
        data, _ = written(picture, format, comment="diffsr and a text that is longer than others")
        held = {"TIFF": data, "PNG": dict(chunks(data)).get(b"eXIf") if format == "PNG" else b""}
        inside = held.get(format) or dict(segments(data))[0xE1][6:]
        assert inside.index(note) == place, format


def test_sizes_in_exif_are_corrected_and_the_thumbnail_goes():
    start = 8 + 2 + 12 + 4
    inner = struct.pack("<H", 2) + struct.pack("<HHIHHHHII", 0xA002, 3, 1, 7, 0, 0xA003, 4, 1, 3)
    outer = bytearray(directory((0x8769, 4, struct.pack("<I", start))))
    block = bytes(outer) + inner + bytes(4)
    thumb = struct.pack("<HHHIIHHIII", 2, 0x201, 4, 1, 90, 0x202, 4, 1, 5, 0) + b"THUMB"
    block = block[: start - 4] + struct.pack("<I", len(block)) + block[start:] + thumb
    picture = read(with_exif(block, "JPEG"))
    data, _ = written(Picture(np.zeros((100, 70000, 3), np.float32), exif=picture.exif), "PNG")
    inside = dict(chunks(data))[b"eXIf"]
    assert struct.pack("<HHII", 0xA002, 4, 1, 70000) in inside
    assert struct.pack("<HHII", 0xA003, 4, 1, 100) in inside
    assert b"THUMB" not in inside


def test_pixels_per_unit_of_the_sensor_go():
    long = exif.whole("<", exif.LONG, 7)
    tags = {tag: exif.whole("<", exif.RATIONAL, 201, 2) for tag in (0xA20E, 0xA20F)}
    tags = {0x8769: {0xA002: long, 0xA210: exif.whole("<", exif.SHORT, 2), **tags}}
    focal = b'exif:FocalPlaneXResolution="201/2"'
    packet = PACKET.replace(b"dc:title", focal + b" dc:title")
    block = exif.PREFIX + exif.laid_out("<", tags)
    picture = read(saved(whole(7, 3, 3), "JPEG", exif=block, xmp=packet))
    back = read(io.BytesIO(written(picture, "PNG")[0]))
    assert list(exif.tags_of(back.exif)[1][0x8769]) == [0xA002]
    assert b"FocalPlane" not in back.xmp and b"dc:title" in back.xmp


def test_damaged_directories_cost_no_picture():
    for block in (b"II*\0", b"MM\0*\0\0\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"", b"junk" * 9):
        picture = read(with_exif(block, "PNG"))
        assert picture.size == (7, 3)
    circle = directory((0x8769, 4, struct.pack("<I", 8)))  # a directory below itself
    assert any("left out" in note for note in read(with_exif(circle, "PNG")).notes)


# ---- resolution and the shape of pixels ----------------------------------------------------------


def test_a_resolution_that_nobody_gave_is_not_invented():
    picture = read(with_exif(directory((271, 2, b"Maker\0")), "JPEG"))
    assert picture.dpi is None
    data, _ = written(picture, "JPEG")
    assert segments(data)[0][1][7] == 0
    assert struct.pack("<H", 282) not in dict(segments(data))[0xE1]
    assert struct.unpack("<ii", written(picture, "BMP")[0][38:46]) == (0, 0)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF", "GIF"])
def test_pixels_that_are_not_square_stay_so(format):
    data = bytearray(saved(smooth(9, 14), "JPEG").getvalue())
    data[13:18] = struct.pack(">BHH", 0, 2, 1)
    picture = read(io.BytesIO(bytes(data)))
    assert (picture.dpi, picture.aspect) == (None, (2, 1))
    back = read(io.BytesIO(written(picture, format)[0]))
    assert back.dpi is None
    assert back.aspect[0] / back.aspect[1] == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("dpi", [(2**31 * 0.0254, 4e7), (0.0254, 0.03), (2.54, 5.08), (1e-9, 1e12),
                                 (299.9994, 299.9994), (65535, 1)])  # fmt: skip
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_resolution_is_kept_or_told_however_odd(format, dpi):
    picture = Picture(np.zeros((3, 5, 3), np.float32), dpi=dpi)
    data, notes = written(picture, format)
    back = read(io.BytesIO(data)).dpi
    if format == "PNG" and dpi == (1e-9, 1e12):
        return  # its unit is a whole number a metre, of 31 bits
    held = dpi in ((2.54, 5.08), (299.9994, 299.9994), (65535, 1)) or format != "JPEG"
    assert (notes == []) == held
    limit = 2**32 - 1
    want = pytest.approx([min(max(n, 1 / limit), limit) for n in dpi], rel=0.2)
    assert back == want if held else back is None


# ---- XMP, IPTC, comments, texts ------------------------------------------------------------------


def test_xmp_turns_nothing_and_is_corrected_where_exif_did():
    packet = PACKET.replace(b"dc:title", b'tiff:Orientation="6" dc:title')
    alone = read(saved(whole(7, 3, 3), "JPEG", xmp=packet))
    assert (alone.size, alone.xmp) == ((7, 3), packet)
    block = b"Exif\0\0" + directory((271, 2, b"M\0"), (274, 3, short(6)))
    both = read(saved(whole(7, 3, 3), "JPEG", xmp=packet, exif=block))
    assert both.size == (3, 7)
    assert both.xmp == packet.replace(b'Orientation="6"', b'Orientation="1"')


def test_xmp_of_a_panorama_grows_with_it():
    packet = (
        b"<d GPano:FullPanoWidthPixels=\"4000\" GPano:FullPanoHeightPixels = '2000' "
        b'GPano:CroppedAreaImageWidthPixels="3000" GPano:CroppedAreaLeftPixels="500" x="7">'
        b"<GPano:CroppedAreaImageHeightPixels>1000</GPano:CroppedAreaImageHeightPixels>"
        b"<GPano:CroppedAreaTopPixels>250</GPano:CroppedAreaTopPixels></d>"
    )
    want = (
        b"<d GPano:FullPanoWidthPixels=\"8000\" GPano:FullPanoHeightPixels = '6000' "
        b'GPano:CroppedAreaImageWidthPixels="6000" GPano:CroppedAreaLeftPixels="1000" x="7">'
        b"<GPano:CroppedAreaImageHeightPixels>3000</GPano:CroppedAreaImageHeightPixels>"
        b"<GPano:CroppedAreaTopPixels>750</GPano:CroppedAreaTopPixels></d>"
    )
    assert xmp.updated(packet, (3000, 6000)) == want


def test_xmp_no_longer_points_to_pictures_that_are_gone():
    packet = (
        b'<d hdrgm:Version="1.0" dc:x="1" GCamera:MotionPhoto="1"><Container:Directory><rdf:Seq>'
        b"<rdf:li/></rdf:Seq></Container:Directory><xmp:Thumbnails><a/></xmp:Thumbnails></d>"
    )
    assert xmp.alone(packet) == b'<d dc:x="1"></d>'


def test_texts_of_other_programs_go_to_their_place():
    """As ImageMagick writes them."""
    block = directory((271, 2, b"Maker\0"), (274, 3, short(6)))
    raw = b"\nexif\n%8d\n%s\n" % (len(block) + 6, (b"Exif\0\0" + block).hex().encode())
    text = (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw))
    packed = (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(PACKET))
    picture = read(with_chunks(saved(whole(7, 3, 3), "PNG").getvalue(), text, packed))
    assert picture.size == (3, 7)
    assert b"Maker" in picture.exif
    assert (picture.xmp, picture.texts) == (PACKET, ())


@pytest.mark.parametrize("bits", [8, 16])
def test_damaged_and_long_texts_cost_no_picture(bits):
    plain = io.BytesIO()
    write(Picture(np.zeros((7, 3, 3), np.float32), bits=bits), plain, format="PNG")
    long = (b"zTXt", b"workflow\0\0" + zlib.compress(bytes(3_000_000)))
    data = with_chunks(plain.getvalue(), (b"tEXt", b"Title\0hello"), long).getvalue()
    data = data.replace(b"Title\0hello", b"Title\0jello")
    picture = read(io.BytesIO(data))
    assert picture.bits == bits
    assert picture.texts == (long,)
    assert any("tEXt" in note for note in picture.notes)
    assert long in chunks(written(picture, "PNG")[0])


def test_what_is_too_long_for_a_segment_is_told():
    picture = Picture(np.zeros((7, 3, 3), np.float32), comments=(bytes(70_000),))
    data, notes = written(picture, "JPEG")
    assert any("comment" in note for note in notes)
    assert len(data) < 2000


def test_iptc_too_long_for_a_segment_has_several():
    records = b"".join(b"\x1c\x02\x78\x75\x30" + bytes([n]) * 30_000 for n in range(65, 69))
    data, notes = written(Picture(np.zeros((7, 3, 3), np.float32), iptc=records), "JPEG")
    assert notes == []
    bodies = [body for marker, body in segments(data) if marker == 0xED]
    assert [len(body) <= jpeg.MOST for body in bodies] == [True] * 2
    assert read(io.BytesIO(data)).iptc == records


def test_resources_of_other_programs_before_iptc_are_passed_over():
    resources = b"MeSa\x04\x04\0\0\0\0\0\x03abc\0" + b"8BIM\x03\xed\x03abc\0\0\0\x02xx"
    resources += b"8BIM\x04\x04\0\0" + struct.pack(">I", len(RECORDS)) + RECORDS
    data = saved(whole(7, 3, 3), "JPEG").getvalue()
    for bodies in ((resources,), (b"8BIM\x03\xed\0\0\0\0\0\0\0", resources)):  # padded too far
        added = b""
        for body in bodies:
            added += b"\xff\xed" + struct.pack(">H", 16 + len(body)) + jpeg.PHOTOSHOP + body
        assert read(io.BytesIO(data[:20] + added + data[20:])).iptc == RECORDS


def test_xmp_too_long_for_a_segment_has_two_parts():
    words = bytes(whole(200_000) % 26 + 65)
    rdf = b'<rdf:RDF><rdf:Description dc:title="' + words + b'"/></rdf:RDF>'
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">' + rdf + b"</x:xmpmeta>"
    data, notes = written(Picture(np.zeros((7, 3, 3), np.float32), xmp=packet), "JPEG")
    assert notes == []
    bodies = [body for marker, body in segments(data) if marker == 0xE1]
    assert len(bodies) == 5
    assert re.search(rb'HasExtendedXMP="([0-9A-F]{32})"', bodies[0])[1] == bodies[1][35:67]
    assert b"".join(body[75:] for body in bodies[1:]) == packet
    back = read(io.BytesIO(data)).xmp
    assert words in back
    assert b"HasExtendedXMP" not in back
    png = written(read(io.BytesIO(data)), "PNG")[0]
    assert words in png


def test_words_of_a_gif_behind_its_pixels_are_kept():
    plain = saved(whole(7, 3), "GIF").getvalue()
    ramp = b"\x01" + bytes(range(255, -1, -1)) + b"\0"
    words = b"\0!\xfe\x07by hand\0" + b"!\xff\x0bXMP DataXMP" + PACKET + ramp
    other = saved(whole(5, 4), "PNG").getvalue()
    picture = read(io.BytesIO(plain[:-1] + words + b";" + other))
    assert (picture.comments, picture.xmp) == ((b"by hand",), PACKET)
    assert any("another picture" in note for note in picture.notes)


def test_size_that_faces_are_marked_in_is_corrected():
    packet = (
        b'<a stDim:w="7"><mwg-rs:AppliedToDimensions stDim:w="40" stDim:h="30" '
        b'stDim:unit="pixel"/></a>'
    )
    want = packet.replace(b'"40"', b'"80"').replace(b'"30"', b'"60"')
    assert xmp.updated(packet, (60, 80)) == want


# ---- colour --------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "AVIF", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_grey_has_a_profile_that_fits(mode, format):
    picture = read(saved(Image.fromarray(whole(9, 5)).convert(mode), "PNG", icc_profile=SRGB))
    assert picture.grey
    back = read(io.BytesIO(written(picture, format)[0]))
    assert profile.space(back.icc) == (b"RGB " if format == "WEBP" else b"GRAY")
    ImageCms.ImageCmsProfile(io.BytesIO(back.icc))  # lcms takes it
    assert back.grey == (format != "WEBP")


def test_a_profile_of_tables_makes_grey_colour():
    tables = SRGB.replace(b"rTRC", b"A2B0")
    picture = read(saved(whole(9, 5), "PNG", icc_profile=tables))
    data, _ = written(picture, "PNG")
    assert chunks(data)[0][1][9] == 2  # RGB
    assert read(io.BytesIO(data)).icc == tables


def test_srgb_in_other_words_needs_no_profile():
    said = [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 45455))]
    picture = read(with_chunks(saved(whole(9, 5, 3), "PNG").getvalue(), *said))
    assert picture.icc is None
    found = chunks(written(picture, "PNG")[0])
    assert all(chunk in found for chunk in said)
    assert written(picture, "JPEG")[1] == []


def test_cicp_goes_before_a_profile():
    plain = Image.fromarray(whole(9, 5, 3))
    alone = read(with_chunks(saved(plain, "PNG").getvalue(), (b"cICP", bytes([12, 13, 0, 1]))))
    for said, want in (
        (bytes([12, 13, 0, 1]), alone.icc),  # Display P3
        (bytes([1, 13, 0, 1]), None),  # sRGB
        (bytes([200, 200, 0, 1]), alone.icc),  # nobody knows: then the profile has it
    ):
        profile = SRGB if said[0] == 12 else alone.icc
        data = saved(plain, "PNG", icc_profile=profile).getvalue()
        picture = read(with_chunks(data, (b"cICP", said)))
        assert picture.icc == want
        assert not any("understood" in note for note in picture.notes)


@pytest.mark.parametrize(
    "said",
    [
        (b"cICP", bytes([200, 200, 0, 1])),
        (b"cICP", bytes([1, 1, 0, 0])),  # black at 16, white at 235
        (b"cHRM", bytes(32)),
    ],
)
def test_colours_that_are_not_understood_are_told(said):
    picture = read(with_chunks(saved(whole(9, 5, 3), "PNG").getvalue(), said))
    assert any("sRGB" in note for note in picture.notes)


# ---- variants, cut files, second pictures --------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "options", "words"),
    [
        (np.float32, {}, "floating-point samples of 32 bits"),
        (np.float16, {}, "floating-point samples of 16 bits"),
        (np.int16, {}, "signed samples of 16 bits"),
        (np.uint32, {}, "32 bits a sample"),
        (np.uint8, {"compression": 50001}, "compressed by WEBP"),
        (np.uint16, {"compression": 34712}, "compressed by JPEG2000"),
        (np.uint8, {"photometric": 32845}, "LOGLUV colours"),
    ],
)
def test_variants_that_are_not_read_are_named(dtype, options, words):
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((7, 3, 3), dtype), photometric="rgb", metadata=None)
    data = bytearray(file.getvalue())
    for tag, value in (("compression", 259), ("photometric", 262)):
        if tag in options:
            at = data.index(struct.pack("<HHI", value, 3, 1)) + 8
            data[at : at + 4] = struct.pack("<HH", options[tag], 0)
    with pytest.raises(InputError, match=rf"a TIFF .*{words}.*save it in grey or RGB"):
        read(io.BytesIO(bytes(data)))


@pytest.mark.parametrize(
    ("marker", "bits", "channels", "words"),
    [(0xC1, 12, 3, "12 bits a sample"), (0xC3, 8, 3, "lossless"), (0xC5, 8, 3, "hierarchical"),
     (0xF7, 8, 3, "JPEG-LS"), (0xC0, 8, 2, "2 channels")],
)  # fmt: skip
def test_jpegs_that_are_not_read_are_named(marker, bits, channels, words):
    data = bytearray(saved(smooth(16, 16), "JPEG").getvalue())
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4], data[at + 9] = marker, bits, channels
    with pytest.raises(InputError, match=rf"{words}.*save it as PNG or TIFF"):
        read(io.BytesIO(bytes(data)))


def test_pngs_and_bmps_that_are_not_read_are_named():
    apple = with_chunks(saved(smooth(9, 9), "PNG").getvalue(), (b"CgBI", bytes(4)))
    with pytest.raises(InputError, match=r"CgBI.*ordinary PNG"):
        read(apple)
    for at, value, words in ((30, 5, "holds a PNG"), (28, 2, "2 bits a pixel")):
        data = bytearray(saved(smooth(9, 9), "BMP").getvalue())
        data[at] = value
        with pytest.raises(InputError, match=rf"a BMP .*{words}.*save it as PNG"):
            read(io.BytesIO(bytes(data)))


def test_signatures_of_the_old_file_are_left_out_and_told():
    manifest = b"JP\0\1\0\0\0\1\0\0\0\x40jumb\0\0\0\x28jumdc2pa" + bytes(12)
    data = saved(smooth(16, 16), "JPEG").getvalue()
    segment = b"\xff\xeb" + struct.pack(">H", 2 + len(manifest)) + manifest
    signed = [io.BytesIO(data[:20] + segment + data[20:])]
    signed.append(with_chunks(saved(smooth(9, 9), "PNG").getvalue(), (b"caBX", manifest)))
    webp = saved(smooth(9, 9), "WEBP").getvalue() + struct.pack("<4sI", b"C2PA", 40) + manifest
    signed.append(io.BytesIO(webp[:4] + struct.pack("<I", len(webp) - 8) + webp[8:]))
    uuid = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
    box = struct.pack(">I4s", 64, b"uuid") + uuid + manifest
    signed.append(io.BytesIO(saved(smooth(9, 9), "AVIF").getvalue() + box))
    tagged = io.BytesIO()
    tifffile.imwrite(tagged, whole(7, 3), metadata=None, extratags=[(52545, 7, 40, manifest, True)])
    signed.append(io.BytesIO(tagged.getvalue()))
    for file in signed:
        assert any("C2PA" in note for note in read(file).notes)


def test_a_depth_map_beside_the_picture_is_told():
    source = np.dstack([smooth(16, 16), whole(16, 16)])
    data = saved(source, "AVIF").getvalue()
    assert read(io.BytesIO(data)).notes == ()
    alpha = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha"
    assert data.count(alpha) == 1
    depth = data.replace(alpha, alpha.replace(b"alpha", b"depth"))
    assert any("depth map" in note for note in read(io.BytesIO(depth)).notes)


def test_a_damaged_profile_is_left_out_and_told():
    picture = read(saved(whole(7, 3, 3), "JPEG", icc_profile=SRGB[:200]))
    assert picture.icc is None
    assert any("profile" in note for note in picture.notes)


def test_a_fourth_sample_without_a_name_is_told():
    for bits in (8, 16):
        file = io.BytesIO()
        options = {"photometric": "rgb", "extrasamples": ["unspecified"], "metadata": None}
        tifffile.imwrite(file, whole(7, 3, 4, bits=bits), **options)
        file.seek(0)
        picture = read(file)
        assert picture.alpha is None
        assert any("further channel" in note for note in picture.notes)


def test_depth_that_is_reduced_is_told():
    file = io.BytesIO()
    tifffile.imwrite(file, whole(7, 3, 4, bits=16), photometric="separated", metadata=None)
    file.seek(0)
    assert any("16 bits a channel were reduced to 8" in note for note in read(file).notes)
    avif = bytearray(saved(smooth(16, 16), "AVIF").getvalue())
    at = avif.index(b"pixi") + 8
    avif[at + 1 : at + 4] = bytes([10, 10, 10])
    av1 = avif.index(b"av1C") + 6
    assert not avif[av1] & 0x40
    assert carried(io.BytesIO(bytes(avif)), "AVIF")[0].bits == 10


@pytest.mark.parametrize("progressive", [False, True])
def test_only_the_end_is_missing(progressive):
    data = saved(smooth(48, 33), "JPEG", progressive=progressive, quality=90).getvalue()
    for cut in (1, 2):
        picture = read(io.BytesIO(data[:-cut]))
        assert np.array_equal(picture.rgb, read(io.BytesIO(data)).rgb)
        assert any("end is not marked" in note for note in picture.notes)
    for cut in range(3, 60):  # bits that are missing change nothing, or are missed
        try:
            assert np.array_equal(read(io.BytesIO(data[:-cut])).rgb, read(io.BytesIO(data)).rgb)
        except InputError as error:
            assert "--allow-truncated" in str(error)


@pytest.mark.parametrize("progressive", [False, True])
def test_advice_that_is_given_works(progressive):
    data = saved(smooth(48, 33), "JPEG", progressive=progressive, quality=90).getvalue()
    advised = set()
    for end in range(4, len(data) - 2, 7):
        try:
            read(io.BytesIO(data[:end]))
        except InputError as error:
            advised.add(advice := "--allow-truncated" in str(error))
            assert advice or "get it again" in str(error)
            if advice:
                assert read(io.BytesIO(data[:end]), allow_truncated=True).size == (48, 33)
    assert advised == {True, False}


def test_no_library_speaks_to_the_user():
    """Of damaged files, the messages name the kind of file and what to do."""
    for format in FORMATS:
        data = saved(smooth(40, 40), format).getvalue()
        for end in (len(data) // 3, len(data) // 2, len(data) * 9 // 10):
            for bad in (data[:end], data[:end] + bytes(60) + data[end + 60 :]):
                try:
                    read(io.BytesIO(bad))
                except InputError as error:
                    words = str(error).removeprefix("the stream: ")
                    assert re.search("get it again|save it", words), words
                    assert not re.search(r"decoder|Error|broken|buffer|\b-\d", words), words


def test_decoders_are_quiet(capfd):
    for bits, mode in ((8, "tiff_lzw"), (8, "packbits"), (16, "tiff_lzw")):
        data = bytearray(saved(whole(40, 40, bits=bits), "TIFF", compression=mode).getvalue())
        with tifffile.TiffFile(io.BytesIO(bytes(data))) as tiff:
            at = tiff.pages[0].dataoffsets[0]
        data[at + 20 : at + 300] = b"\xff" * 280
        with suppress(InputError):
            read(io.BytesIO(bytes(data)))
    data = bytearray(saved(whole(9, 9, 3), "TIFF").getvalue())
    at = data.index(struct.pack("<HHI", 277, 3, 1)) + 8
    data[at] = 9  # samples a pixel, which Pillow logs
    with suppress(InputError):
        read(io.BytesIO(bytes(data)))
    assert capfd.readouterr().err == ""


def test_hostile_metadata_take_no_time():
    began = time.monotonic()
    packets = [b"<hdrgm:a>" * 20_000, b"<xmp:Thumbnails " * 20_000, b"<rdf:RDF>" * 20_000]
    packets += [b"".join(b"<hdrgm:a%d>" % i for i in range(20_000))]
    for packet in packets:
        xmp.updated(xmp.alone(packet), (9, 9))
        xmp.joined(packet, packet)
    raw = whole(3_000_000).tobytes()
    tags = b"".join(struct.pack("<HHII", 30000 + i, 7, 3_000_000, 30_000) for i in range(2000))
    block = b"II*\0\x08\0\0\0" + struct.pack("<H", 2000) + tags + bytes(4) + raw
    texts = (b"zTXt", b"Raw profile type xmp\0\0" + zlib.compress(bytes(2_000_000)))
    plain = saved(whole(9, 9, 3), "PNG").getvalue()
    read(with_chunks(plain, (b"eXIf", block), *[texts] * 40))
    assert time.monotonic() - began < 5


def second_picture() -> bytes:
    return saved(smooth(16, 16), "MPO", save_all=True,
                 append_images=[Image.fromarray(smooth(16, 16))]).getvalue()  # fmt: skip


def test_second_pictures_are_told():
    one = saved(smooth(16, 16), "JPEG").getvalue()
    assert any("first of 2 pictures" in note for note in read(io.BytesIO(second_picture())).notes)
    assert any("another picture (JPEG)" in note for note in read(io.BytesIO(one + one)).notes)
    video = bytes([0, 0, 0, 24]) + b"ftypmp42" + bytes(60)
    assert any("a video" in note for note in read(io.BytesIO(one + video)).notes)
    assert read(io.BytesIO(one)).notes == ()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM", "AVIF"])
def test_what_follows_in_the_same_stream_is_told(format):
    one = saved(smooth(16, 16), format).getvalue()
    other = saved(smooth(8, 8), "AVIF" if format == "AVIF" else "PNG").getvalue()
    picture = read(io.BytesIO(one + other))
    assert picture.size == (16, 16)
    assert any("another picture" in note for note in picture.notes)
    assert read(io.BytesIO(one)).notes == ()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("same", [True, False])
def test_a_second_block_of_a_kind_is_told(format, same):
    one = directory((271, 2, b"Maker\0"))
    two = one if same else directory((271, 2, b"Else\0"))
    plain = saved(smooth(16, 16), format, lossless=True).getvalue()
    if format == "PNG":
        raw = b"Raw profile type exif\0\nexif\n  99\n" + (exif.PREFIX + two).hex().encode()
        file = with_chunks(plain, (b"eXIf", one), (b"tEXt", raw))
    elif format == "JPEG":
        blocks = (exif.PREFIX + block for block in (one, two))
        added = b"".join(b"\xff\xe1" + struct.pack(">H", 2 + len(b)) + b for b in blocks)
        file = io.BytesIO(plain[:2] + added + plain[2:])
    else:
        size = struct.pack("<I", 15)[:3] * 2
        chunks = [(b"VP8X", b"\x08\0\0\0" + size), (b"VP8L", plain[20:])]
        chunks += [(b"EXIF", one), (b"EXIF", two)]
        body = b"".join(k + struct.pack("<I", len(d)) + d + bytes(len(d) % 2) for k, d in chunks)
        file = io.BytesIO(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body)
    picture = read(file)
    assert b"Maker" in picture.exif
    assert picture.notes == (() if same else ("a second EXIF block in the file was left out",))


@pytest.mark.parametrize("gamma", [0, 1, 2**31 - 1])
def test_a_gamma_that_is_none_is_told(gamma):
    plain = saved(smooth(9, 5), "PNG").getvalue()
    picture = read(with_chunks(plain, (b"gAMA", struct.pack(">I", gamma))))
    told = ("colours by gAMA are not understood: they are taken for sRGB",)
    assert (picture.icc, picture.notes) == (None, told)
    assert np.array_equal(picture.rgb, read(io.BytesIO(plain)).rgb)


def test_a_damaged_tRNS_costs_only_transparency():
    image = Image.fromarray(whole(9, 5) % 4).convert("P")
    data = saved(image, "PNG", transparency=bytes([0, 128, 255])).getvalue()
    at = data.index(b"tRNS") + 4
    data = data[:at] + b"\7" + data[at + 1 :]
    picture = read(io.BytesIO(data))
    assert picture.alpha is None
    assert any("tRNS" in note for note in picture.notes)


def chunks_of_odd_lengths() -> dict[str, tuple[str, tuple[bytes, bytes]]]:
    control = struct.pack(">5I2H2B", 0, 3, 7, 0, 0, 1, 10, 0, 0)
    return {
        "grey": ("L", (b"tRNS", b"\1")),
        "colour": ("RGB", (b"tRNS", b"\0\1\0\2")),
        "palette": ("P", (b"tRNS", bytes(300))),
        "longer than its palette": ("P", (b"tRNS", bytes(range(200)))),
        "animation": ("RGB", (b"acTL", b"\0\0\0\1")),
        "frame of no animation": ("RGB", (b"fcTL", control)),
        "data of no animation": ("RGB", (b"fdAT", b"\0\0\0\1")),
    }


@pytest.mark.parametrize("odd", chunks_of_odd_lengths())
def test_a_chunk_of_a_png_of_an_odd_length_costs_only_itself(odd):
    mode, (kind, body) = chunks_of_odd_lengths()[odd]
    plain = saved(Image.fromarray(whole(7, 3, 3)).quantize(9).convert(mode), "PNG").getvalue()
    picture = read(with_chunks(plain, (kind, body)))
    assert np.array_equal(picture.rgb, read(io.BytesIO(plain)).rgb)
    assert picture.alpha is None
    assert picture.notes == (f"damaged chunks of the PNG were left out: {kind.decode()}",)


def test_a_profile_inside_a_bmp():
    plain = saved(whole(7, 3, 3), "BMP").getvalue()
    offset = struct.unpack("<I", plain[10:14])[0]
    pixels = plain[offset:]
    head = bytearray(124)
    head[:40] = plain[14:54]
    head[0] = 124
    head[56:60] = b"DEBM"
    head[112:120] = struct.pack("<II", 124 + len(pixels), len(SRGB))
    size = 14 + 124 + len(pixels) + len(SRGB)
    data = b"BM" + struct.pack("<IHHI", size, 0, 0, 138) + bytes(head) + pixels + SRGB
    picture = read(io.BytesIO(data))
    assert picture.icc == SRGB
    assert np.array_equal(np.rint(picture.rgb * 255), whole(7, 3, 3))


def test_colours_of_a_tiff_without_a_profile_are_told():
    wide = (708, 1000, 292, 1000, 170, 1000, 797, 1000, 131, 1000, 46, 1000)
    usual = (64, 100, 33, 100, 30, 100, 60, 100, 15, 100, 6, 100)
    for primaries, told in ((wide, True), (usual, False)):
        file = io.BytesIO()
        tags = [(319, 5, 6, primaries, True)]
        tifffile.imwrite(file, whole(7, 3, 3), photometric="rgb", metadata=None, extratags=tags)
        file.seek(0)
        assert any("taken for sRGB" in note for note in read(file).notes) == told


@pytest.mark.parametrize("format", ["AVIF", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("size", [(1, 5), (5, 1), (1, 1)])
def test_thin_pictures_turned(size, format):
    import torch

    for orientation in range(1, 9):
        block = b"Exif\0\0" + directory((271, 2, b"M\0"), (274, 3, short(orientation)))
        picture = read(saved(whole(*size, 3), format, exif=block))
        assert all(step > 0 for step in picture.rgb.strides)
        torch.from_numpy(picture.rgb)


# ---- the parts alone -----------------------------------------------------------------------------


def test_segments_end_where_the_file_is_cut():
    data = saved(smooth(48, 33), "JPEG").getvalue()
    assert [m for m, _, _ in jpeg.segments(data)][-1] == jpeg.EOI
    assert [m for m, _, _ in jpeg.segments(data[:30])][-1] == jpeg.CUT
    assert jpeg.mended(data[:30]) is None


def test_a_block_laid_out_again_is_the_same():
    block = directory((271, 2, b"Maker\0"), (305, 2, WORDS + b"\0"), order=">")
    order, tags = exif.tags_of(block)
    once = exif.laid_out(order, tags)
    assert exif.tags_of(once) == (order, tags)
    assert exif.laid_out(*exif.tags_of(once)) == once


def test_pillows_images_carry_the_same(tmp_path):
    block = b"Exif\0\0" + directory((271, 2, b"Maker\0"), (274, 3, short(6)))
    with Image.open(saved(whole(7, 3), "JPEG", exif=block, icc_profile=SRGB, xmp=PACKET)) as image:
        picture = picture_of(image)
    assert (picture.size, picture.dpi) == ((3, 7), None)
    assert b"Maker" in picture.exif
    made = pillow_of(picture)
    assert profile.space(made.info["icc_profile"]) == b"GRAY"


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("tag", [270, 271, 282, 283, 296, 305, 700, 33723, 34675])
def test_a_tag_of_a_tiff_of_any_type_costs_only_itself(tag, bits, big):
    """Also one whose value then lies beyond the file."""
    file = io.BytesIO()
    extra = [(274, 3, 1, 6, True), (700, 1, 9, b"<x:xmpmet", True), (271, 2, 0, "Maker", True),
             (34675, 7, 8, b"12345678", True), (33723, 7, 4, b"abcd", True)]  # fmt: skip
    tifffile.imwrite(
        file, whole(7, 3, 3, bits=bits), photometric="rgb", metadata=None, bigtiff=big,
        description="Lighthouse", software="sw", resolution=(300, 300), extratags=extra,
    )  # fmt: skip
    form, at = (">Q", 16) if big else (">H", 8)
    data = bytearray(file.getvalue())
    size = struct.calcsize(form)
    count = int.from_bytes(data[at : at + size], "little")
    step = 20 if big else 12
    places = [at + size + i * step for i in range(count)]
    place = next(p for p in places if data[p : p + 2] == struct.pack("<H", tag))
    for kind in (0, 1, 2, 3, 5, 7, 11, 12, 18, 99):
        data[place + 2 : place + 4] = struct.pack("<H", kind)
        picture = read(io.BytesIO(bytes(data)))
        assert picture.size == (3, 7)
        assert b"Lighthouse" in picture.exif or tag == 270


@pytest.mark.parametrize("tag", [282, 283, 296, 305])
@pytest.mark.parametrize("kind", [1, 2, 3, 5, 7, 12, 99])
def test_a_resolution_of_any_type_costs_only_itself(kind, tag):
    size = {1: 1, 2: 1, 3: 2, 5: 8, 7: 1, 12: 8, 99: 1}[kind]
    third = struct.pack("<II", 300, 1)
    entries = {271: (2, b"Maker\0"), 274: (3, short(6)), 282: (5, third), 283: (5, third),
               296: (3, short(3)), tag: (kind, bytes([6, *bytes(7)])[:size])}  # fmt: skip
    block = b"Exif\0\0" + directory(*((t, *entries[t]) for t in sorted(entries)))
    data = saved(smooth(7, 3), "JPEG").getvalue()
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(block)) + block
    picture = read(io.BytesIO(data[:2] + segment + data[20:]))  # in place of JFIF's
    assert picture.size == (3, 7)
    assert b"Maker" in picture.exif
