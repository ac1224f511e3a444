"""Damaged pictures by the thousand: no hang, no flood of memory, no exception that is not ours.

    python benchmarks/mutations.py            5,000 mutations of thirteen kinds of files
    python benchmarks/mutations.py --count 500 --seed 7

Each mutation is read, and what could be read is written again, in a process of its own kind whose
memory is measured. Exit code 1 where any of them took more than 10 s or 1 GB, or ended in another
exception than `DiffsrError`. The mutations depend on nothing but the seed.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import select
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from upscale.errors import DiffsrError

SECONDS, MEGABYTES = 10.0, 1000
_TURNED = [(274, 3, 1, 6, True)]  # orientation
_MOST = 6 << 30  # of address space: a flood ends here, and not in the machine's memory


def originals() -> dict[str, bytes]:
    """A small picture of each format, with what files carry."""
    y, x = np.mgrid[:61, :83]
    grey = (np.sin(x / 9) * 90 + 120 + 20 * np.sin(y / 7)).astype(np.uint8)
    rgb = np.stack([grey, grey.T[:61, :61].repeat(2, 1)[:, :83], 255 - grey], 2)
    deep = rgb.astype(np.uint16) * 257
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8298] = 6, "maker", "somebody's"
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a comment"
    image = Image.fromarray(rgb)

    def pillow(format: str, **options: object) -> bytes:
        file = io.BytesIO()
        carried = {} if format in ("BMP", "GIF", "PPM", "TGA", "TIFF") else {"exif": exif.tobytes()}
        image.save(file, format, **carried, **options)
        return file.getvalue()

    def tiff(samples: np.ndarray, **options: object) -> bytes:
        file = io.BytesIO()
        more = {"description": "a text", "resolution": (300, 300), "extratags": _TURNED}
        tifffile.imwrite(file, samples, photometric="rgb", **more, **options)
        return file.getvalue()

    return {
        "PNG": pillow("PNG", dpi=(300, 300)),
        "PNG, 16 bits": _png16(deep),
        "JPEG": pillow("JPEG", dpi=(72, 72), comment="a comment"),
        "JPEG, progressive": pillow("JPEG", progressive=True),
        "WebP": pillow("WEBP"),
        "TIFF": tiff(rgb, tile=(32, 32)),
        "TIFF, 16 bits": tiff(deep, compression="zlib", predictor=True),
        "TIFF, LZW": pillow("TIFF", compression="tiff_lzw"),
        "BigTIFF": tiff(deep, bigtiff=True, rowsperstrip=7),
        "BMP": pillow("BMP"),
        "PPM": pillow("PPM"),
        "TGA": pillow("TGA"),
        "TGA, packed": pillow("TGA", compression="tga_rle"),
        "GIF": pillow("GIF"),
        "AVIF": pillow("AVIF"),
    }


def _png16(samples: np.ndarray) -> bytes:
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"gAMA", struct.pack(">I", 45455)), (b"tEXt", b"Title\0a text")]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One to four changes: bytes, numbers at their extremes, parts cut, repeated or moved. Most are
    near the start, where headers are. Checksums of PNGs are often made right again."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        reach = len(out) if chance.random() < 0.4 else min(len(out), 400)
        at = chance.randrange(8, max(9, reach))
        kind = chance.randrange(6)
        if kind == 0:
            out[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            out[at : at + 1] = bytes([(out[at] if at < len(out) else 0) ^ 1 << chance.randrange(8)])
        elif kind == 2:
            number = chance.choice([0, 1, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, at])
            form = chance.choice(["<H", ">H", "<I", ">I"])
            packed = struct.pack(form, number & (0xFFFF if form[1] == "H" else 0xFFFFFFFF))
            out[at : at + len(packed)] = packed
        elif kind == 3:
            del out[at : at + chance.randint(1, 200)]
        elif kind == 4:
            out[at:at] = out[at : at + chance.randint(1, 200)] * chance.choice([1, 2, 50])
        else:
            del out[max(9, chance.randrange(len(out) + 1)) :]
        if len(out) < 16:
            break
    if data.startswith(b"\x89PNG") and chance.random() < 0.7:
        return _checksums(bytes(out))
    return bytes(out)


def _checksums(data: bytes) -> bytes:
    out, at = data[:8], 8
    while at + 12 <= len(data):
        length = struct.unpack(">I", data[at : at + 4])[0]
        if at + 12 + length > len(data):
            break
        out += _chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length])
        at += 12 + length
    return out + data[at:]


def work(format: str, seed: int, numbers: range) -> None:
    """Do some mutations of a format; a line of JSON for each on standard output."""
    from upscale.image.decode import read
    from upscale.image.encode import write

    resource.setrlimit(resource.RLIMIT_AS, (_MOST, _MOST))
    data = originals()[format]
    for number in numbers:
        chance = random.Random(f"{format} {seed} {number}")
        file = io.BytesIO(mutated(data, chance))
        _forget_peak()
        print(json.dumps({"begun": number}), flush=True)
        started = time.monotonic()
        try:
            picture = read(file, frames="first", allow_truncated=number % 2 == 0)
            how = "read"
            if picture.size[0] * picture.size[1] < 1e6:
                write(picture, io.BytesIO(), format=picture.format)
        except DiffsrError as error:
            how = type(error).__name__
        except Exception as error:
            how = f"NOT OURS: {type(error).__name__}: {error}"[:300]
        took = round(time.monotonic() - started, 2)
        print(json.dumps({"number": number, "how": how, "s": took, "MB": _peak()}), flush=True)


def _forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """Megabytes of memory at its highest since `_forget_peak`, where the system can say it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def done(format: str, seed: int, count: int) -> Iterator[dict]:
    """What became of each mutation of a format. One that hangs, or ends its process, is left."""
    first = 0
    while first < count:
        arguments = ["--work", format, "--seed", str(seed), "--numbers", f"{first}:{count}"]
        worker = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert worker.stdout is not None
        begun = first
        while select.select([worker.stdout], [], [], SECONDS * 3)[0]:
            line = worker.stdout.readline()
            if not line:
                break
            row = json.loads(line)
            if "begun" in row:
                begun = row["begun"]
                continue
            first = row["number"] + 1
            yield row
        hung = worker.poll() is None
        worker.kill()
        worker.wait()
        if first < count:
            how = "HANG" if hung else f"ENDED ITS PROCESS ({worker.returncode})"
            yield {"number": begun, "how": how, "s": SECONDS * 3, "MB": 0}
            first = begun + 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=5000, help="of mutations, over all formats")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--numbers", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work(asked.work, asked.seed, range(*map(int, asked.numbers.split(":"))))
        return 0
    bad, formats = 0, list(originals())
    for format in formats:
        rows = list(done(format, asked.seed, -(-asked.count // len(formats))))
        wrong = [
            row for row in rows
            if row["s"] > SECONDS or row["MB"] > MEGABYTES or " " in row["how"]
        ]  # fmt: skip
        bad += len(wrong)
        counts = ", ".join(
            f"{how} {n}" for how, n in Counter(r["how"] for r in rows).most_common(4)
        )
        slowest, largest = max(row["s"] for row in rows), max(row["MB"] for row in rows)
        print(
            f"{format:<18} {len(rows):>5}  {slowest:>5.2f} s  {largest:>4} MB  {counts}", flush=True
        )
        for row in wrong:
            print(f"  WRONG: {json.dumps(row)}", flush=True)
    print(f"{bad} of the mutations went wrong" if bad else "none went wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
