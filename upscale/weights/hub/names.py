"""What a file on the Hub is called, and which names are refused."""

from __future__ import annotations

import re
from dataclasses import dataclass

from upscale.errors import UntrustedWeights, UsageError

COMMIT = re.compile("[0-9a-f]{40}")
ETAG = re.compile(r"[A-Za-z0-9][\w.-]{0,199}", re.ASCII)  # it names a file in the cache, too
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*", re.ASCII)
# no part of a name may begin with a dot, so none is .. and none is hidden
_FILE = re.compile(r"(\w[\w.+=,@() -]*(/\w[\w.+=,@() -]*)*)?")


@dataclass(frozen=True)
class Hub:
    """A file in a Hugging Face repository; revision: a commit, or a branch or tag, which moves.

    file is "" where a repository as a whole is meant. Raises UntrustedWeights for a name that
    would lead out of the cache's folder, or that no file on the Hub has.
    """

    repo: str
    revision: str = "main"
    file: str = ""

    def __post_init__(self) -> None:
        for what, value, form in (
            ("repository", self.repo, _REPO),
            ("revision", self.revision, _REVISION),
            ("file name", self.file, _FILE),
        ):
            if not form.fullmatch(value):
                raise UntrustedWeights(f"{value!r} is no {what} of the Hub: it is not used")

    def __str__(self) -> str:
        return f"hf:{self.repo}@{self.revision}" + (f"/{self.file}" if self.file else "")

    @property
    def pinned(self) -> bool:
        return bool(COMMIT.fullmatch(self.revision))


def parse(text: str, revision: str | None = None) -> Hub:
    """hf:ORG/REPO[@REV][/FILE]; `revision` overrides REV. Raises UsageError, UntrustedWeights."""
    parts = text.removeprefix("hf:").split("/", 2)
    if not text.startswith("hf:") or len(parts) < 2 or not all(parts):
        raise UsageError(f"{text}: weights on the Hub are written hf:ORG/REPO[@REVISION]/FILE")
    name, at, own = parts[1].partition("@")
    if at and not own:
        raise UsageError(f"{text}: there is no revision behind the @")
    file = parts[2] if len(parts) == 3 else ""
    if file and not file.endswith(".safetensors"):
        raise UntrustedWeights(
            f"{text} is not a .safetensors file and is not fetched. Checkpoints of other programs "
            "are converted by `diffsr weights import FILE`"
        )
    return Hub(f"{parts[0]}/{name}", revision or own or "main", file)
