"""Picture files: the names that the rest of diffsr uses."""

from __future__ import annotations

from upscale.image.formats import SUFFIXES, check_format, format_of
from upscale.image.reading import read
from upscale.image.saving import write

__all__ = ["SUFFIXES", "check_format", "format_of", "read", "write"]
