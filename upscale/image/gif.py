"""What goes along with the picture of a GIF."""

from __future__ import annotations

from upscale.image.picture import Extras

# so that readers of blocks, wherever in the packet they get out of step, find the end
_RAMP = b"\x01" + bytes(range(255, -1, -1)) + b"\0"


def head_of(data: memoryview, extras: Extras) -> tuple[bytes, int]:
    """(the beginning of a GIF, with comments, XMP and the ratio of its pixels behind its table of
    colours, where in `data` it goes on)."""
    at = 13 + (3 * 2 ** ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    head = bytearray(data[:at])
    if extras.aspect:
        head[12] = min(255, max(1, round(64 * extras.aspect[1] / extras.aspect[0] - 15)))
    added = b""
    for comment in (*extras.comments, *([extras.software.encode()] if extras.software else [])):
        added += b"!\xfe" + _blocks(comment)
    if extras.xmp:
        added += b"!\xff\x0bXMP DataXMP" + extras.xmp + _RAMP
    # comments and applications are of version 89a
    return b"GIF89a" + bytes(head[6:]) + added, at


def _blocks(data: bytes) -> bytes:
    parts = [data[i : i + 255] for i in range(0, len(data), 255)]
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"
