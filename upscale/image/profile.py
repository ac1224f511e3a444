"""ICC profiles: made from what a PNG, AVIF or HEIC says of its colours in other words, and made to
fit grey or colour. Version 4 (ICC.1:2022), matrix and curves."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

# ITU-T H.273, table 2: x and y of red, green, blue, white
_D65, _C = (0.3127, 0.3290), (0.310, 0.316)
_PRIMARIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65),
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), _C),
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65),
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    8: ((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), _C),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
    22: ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65),
}
_VIDEO, _SRGB, _LINEAR, _PQ, _HLG = (1, 6, 14, 15), 13, 8, 16, 18
_GAMMAS = {4: 2.2, 5: 2.8, _LINEAR: 1.0, 17: 2.6}
_UNSPECIFIED = 2
_SRGB_GAMMA = 45455  # sRGB's curve in one number
_GAMMA = (16, 625_000_000)  # others are mistakes, to libpng too
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_SAMPLES = 4096  # of a curve without a formula
_PQ_WHITE = 203.0  # cd/m2 that are taken for white (ITU-R BT.2408)


def followed(
    icc: bytes | None, chunks: Sequence[tuple[bytes, bytes]], grey: bool
) -> tuple[bytes | None, list[str]]:
    """(the profile that holds, notes), of the one in a file and of what chunks of a PNG declare:
    cICP goes before it, the others hold where there is none."""
    if not chunks or (icc is not None and b"cICP" not in dict(chunks)):
        return icc, []
    declared, name = of_chunks(chunks, grey)
    if declared or not name:
        return declared, []
    told = f"colours by {name} are not understood: they are taken for sRGB"
    return icc, [] if icc else [told]


def of_chunks(chunks: Sequence[tuple[bytes, bytes]], grey: bool) -> tuple[bytes | None, str | None]:
    """(the profile of what chunks of a PNG declare, or None for sRGB; its name for the user).

    cICP overrides sRGB, which overrides gAMA and cHRM, as the PNG standard (third edition) has
    it. The profile is None with a name where a declaration cannot be followed.
    """
    said = dict(reversed(chunks))
    if b"cICP" in said and len(said[b"cICP"]) == 4:
        primaries, transfer, _, full = said[b"cICP"]
        if not full:
            return None, f"cICP {primaries}/{transfer} in narrow range"
        return _of_cicp(primaries, transfer, grey)
    if b"sRGB" in said or not {b"gAMA", b"cHRM"} & said.keys():
        return None, None
    curve, primaries, names = _SRGB_CURVE, _PRIMARIES[1], []
    gamma = int.from_bytes(said.get(b"gAMA", _SRGB_GAMMA.to_bytes(4, "big")), "big")
    if not _GAMMA[0] <= gamma <= _GAMMA[1]:
        return None, "gAMA"
    if abs(gamma - _SRGB_GAMMA) > 500:
        curve = _gamma(100000 / gamma)
        names.append("gAMA")
    if len(said.get(b"cHRM", b"")) == 32 and not grey:
        n = [value / 100000 for value in struct.unpack(">8I", said[b"cHRM"])]
        found = ((n[2], n[3]), (n[4], n[5]), (n[6], n[7]), (n[0], n[1]))
        if np.abs(np.subtract(found, _PRIMARIES[1])).max() > 0.002:
            primaries = found
            names.append("cHRM")
    if not names:
        return None, None
    name = " and ".join(names)
    return _profile(primaries, curve, grey), name


def _of_cicp(primaries: int, transfer: int, grey: bool) -> tuple[bytes | None, str | None]:
    name = f"cICP {primaries}/{transfer}"
    if primaries in (1, _UNSPECIFIED) and transfer in (*_VIDEO, _SRGB, _UNSPECIFIED):
        return None, None
    points = _PRIMARIES.get(1 if primaries == _UNSPECIFIED else primaries)
    if transfer in (_SRGB, _UNSPECIFIED):
        curve = _SRGB_CURVE
    elif transfer in _VIDEO:
        curve = _parametric(1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
    elif transfer in _GAMMAS:
        curve = _gamma(_GAMMAS[transfer])
    elif transfer == _PQ:
        curve = _sampled(_pq(np.linspace(0, 1, _SAMPLES)) * 10000 / _PQ_WHITE)
        name += " (PQ, 203 cd/m2 being white)"
    elif transfer == _HLG:
        curve = _sampled(_hlg(np.linspace(0, 1, _SAMPLES)))
        name += " (HLG)"
    else:
        return None, name
    if points is None:
        return None, name
    return _profile(points, curve, grey), name


def _pq(signal: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084: to [0,1] of 10000 cd/m2."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = signal ** (1 / m2)
    return (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)


def _hlg(signal: np.ndarray) -> np.ndarray:
    """ARIB STD-B67: to scene light in [0,1]."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


# --- curves and profiles as bytes -----------------------------------------------------------------


def _fixed(*numbers: float) -> bytes:
    """s15Fixed16"""
    return struct.pack(f">{len(numbers)}i", *(round(n * 65536) for n in numbers))


def _gamma(exponent: float) -> bytes:
    return b"para\0\0\0\0\0\0\0\0" + _fixed(exponent)


def _parametric(g: float, a: float, b: float, c: float, d: float) -> bytes:
    """(a x + b)^g from d on, c x below."""
    return b"para\0\0\0\0\0\3\0\0" + _fixed(g, a, b, c, d)


_SRGB_CURVE = _parametric(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def _sampled(values: np.ndarray) -> bytes:
    levels = np.rint(np.clip(values, 0, 1) * 65535).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", len(levels)) + levels.tobytes()


def _xyz(x: float, y: float) -> np.ndarray:
    return np.array([x / y, 1, (1 - x - y) / y])


def _profile(points: Sequence[tuple[float, float]], curve: bytes, grey: bool) -> bytes | None:
    """points: x and y of red, green, blue, white. None where they span no colours."""
    if grey:
        return _assembled(b"GRAY", {b"kTRC": curve})
    try:
        with np.errstate(all="raise"):
            white = _xyz(*points[3])
            columns = np.stack([_xyz(*point) for point in points[:3]], 1)
            columns = columns * np.linalg.solve(columns, white)
            cones = _BRADFORD @ white
            adapted = np.linalg.solve(_BRADFORD, (_BRADFORD @ _D50 / cones)[:, None] * _BRADFORD)
            columns = adapted @ columns
    except (np.linalg.LinAlgError, ArithmeticError):
        return None
    if not np.isfinite(columns).all() or np.abs(columns).max() > 10:
        return None
    tags = {
        kind: b"XYZ \0\0\0\0" + _fixed(*column)
        for kind, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns.T, strict=True)
    }
    return _assembled(b"RGB ", {**tags, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)})


def _assembled(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    name = "diffsr".encode("utf-16-be")
    words = b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(name), 28) + name
    tags = {b"desc": words, b"cprt": words, b"wtpt": b"XYZ \0\0\0\0" + _fixed(*_D50), **tags}
    body, places, table = b"", {}, b""
    start = 128 + 4 + 12 * len(tags)
    for kind, data in tags.items():
        if data not in places:
            places[data] = start + len(body)
            body += data + bytes(-len(data) % 4)
        table += struct.pack(">4sII", kind, places[data], len(data))
    head = struct.pack(
        ">I4sI4s4s4s6H4s4sI4s4sQI", start + len(body), b"\0\0\0\0", 0x04300000, b"mntr", space,
        b"XYZ ", 2024, 1, 1, 0, 0, 0, b"acsp", b"\0\0\0\0", 0, b"\0\0\0\0", b"\0\0\0\0", 0, 0,
    )  # fmt: skip
    head += _fixed(*_D50) + bytes(128 - len(head) - 12)
    return head + struct.pack(">I", len(tags)) + table + body


# --- fitting --------------------------------------------------------------------------------------


def space(icc: bytes) -> bytes:
    """b"RGB ", b"GRAY" ..."""
    return icc[16:20]


def fitted(icc: bytes, grey: bool) -> bytes | None:
    """The profile for grey or for colour samples: as it is, or one with the same curve. None where
    there is none, as for profiles of tables."""
    wanted = b"GRAY" if grey else b"RGB "
    if space(icc) == wanted:
        return icc
    curves = [_tag(icc, kind) for kind in ((b"rTRC", b"gTRC", b"bTRC") if grey else (b"kTRC",))]
    if curves[0] is None or any(curve != curves[0] for curve in curves):
        return None
    return _profile(_PRIMARIES[1], curves[0], grey)


def _tag(icc: bytes, kind: bytes) -> bytes | None:
    (count,) = struct.unpack(">I", icc[128:132].rjust(4, b"\0"))
    for i in range(min(count, 200)):
        entry = icc[132 + 12 * i : 144 + 12 * i]
        if len(entry) == 12 and entry[:4] == kind:
            at, length = struct.unpack(">II", entry[4:])
            return icc[at : at + length] if at + length <= len(icc) else None
    return None
