"""What a batch does with files: how they are read, how many are made of each, how they are written.

The fields are options of the command line; their defaults, bounds and help stand here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upscale.errors import UsageError
from upscale.pipeline.request import asked, checked

FRAMES = ("error", "first", "all")
SHEETS = (".html", ".htm", ".png", ".jpg", ".jpeg", ".webp")
FILES = "Files"  # the section of the help page


@dataclass(frozen=True)
class Files:
    """How the files of a batch are read and written. Raises UsageError for values out of bounds.

    format: as `image.formats.canonical` takes it; None is the input's own.
    """

    samples: int = asked(
        1, "Write N variants: in_x4_s1.png, in_x4_s2.png, ...",
        group=FILES, expert=True, least=1, metavar="N",
    )  # fmt: skip
    uncertainty: bool = asked(
        False,
        "With --samples: also write their standard deviation, in_x4_std.png. Black is 0, white is "
        "0.25 or more of the range from black to white.",
        group=FILES, expert=True,
    )  # fmt: skip
    overwrite: bool = asked(False, "Replace existing results.", group=FILES)
    skip_existing: bool = asked(False, "Skip pictures whose results exist.", group=FILES)
    format: str | None = asked(None, "Format of the results.", group=FILES, shown="the input's")
    quality: int | None = asked(
        None, "Quality of JPEG, WebP (100: lossless) and AVIF.",
        group=FILES, expert=True, least=1, most=100, metavar="N",
    )  # fmt: skip
    strip: bool = asked(
        False, "Write no EXIF, colour profile or comment.", group=FILES, expert=True
    )
    preserve_times: bool = asked(
        False, "Give results the file dates of their inputs.", group=FILES, expert=True
    )
    frames: str = asked(
        "error",
        "Animations and files of several pages: an error, or enlarge the first or all.",
        group=FILES,
        expert=True,
        choices=FRAMES,
    )
    allow_truncated: bool = asked(
        False, "Accept truncated files and enlarge what is there.", group=FILES, expert=True
    )
    sheet: str | None = asked(
        None,
        "Also compare input and result, or --method sr3,ecdp, on a page or picture.",
        group=FILES, metavar="FILE.html|.png|.jpg",
    )  # fmt: skip
    max_pixels: int = asked(
        250_000_000,
        "Refuse inputs with more pixels.",
        group=FILES,
        expert=True,
        least=1,
        metavar="N",
    )

    def __post_init__(self) -> None:
        checked(self)
        if self.uncertainty and self.samples < 2:
            raise UsageError("--uncertainty compares samples: add --samples 8")
        if self.sheet and Path(self.sheet).suffix.lower() not in SHEETS:
            raise UsageError(f"--sheet {self.sheet}: name a file that ends in {', '.join(SHEETS)}")

    @property
    def reading(self) -> dict[str, Any]:
        """The arguments of `image.decode.read`, which takes the first where all are wanted."""
        names = ("frames", "allow_truncated", "max_pixels")
        found = {name: getattr(self, name) for name in names}
        return found | ({"frames": "first"} if self.frames == "all" else {})
