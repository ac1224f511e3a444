"""Pictures as a browser can show them."""

from __future__ import annotations

from pathlib import Path

from upscale.batch.files import Files
from upscale.image.formats import sniff

_KINDS = {  # what every browser shows as it is
    "PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif",
    "BMP": "image/bmp", "AVIF": "image/avif",
}  # fmt: skip


def view_of(path: Path, files: Files) -> tuple[Path, str]:
    """The file itself and its media type, or a PNG of it that is made once and kept beside it.
    Of what lies on its side, browsers turn JPEG and what boxes of AVIF say, and not all others.
    Raises InputError where it is no picture that can be read."""
    from upscale.image.decode import orientation_of, read
    from upscale.image.encode import write

    with open(path, "rb") as file:
        format = sniff(file.read(64))
    upright = format in ("JPEG", "AVIF") or orientation_of(path) == 1
    if format in _KINDS and upright:
        return path, _KINDS[format]
    view = path.with_name(f".{path.name}.view.png")
    if not view.exists():
        write(read(path, **files.reading), view, format="PNG", overwrite=True)
    return view, _KINDS["PNG"]
