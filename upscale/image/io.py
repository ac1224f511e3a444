"""Picture files: the names that the rest of diffsr uses."""

from __future__ import annotations

from upscale.image.formats import SUFFIXES, canonical, check_format, format_of
from upscale.image.reading import read
from upscale.image.saving import STREAMED, rows_to, write

__all__ = [
    "STREAMED",
    "SUFFIXES",
    "canonical",
    "check_format",
    "format_of",
    "read",
    "rows_to",
    "write",
]
