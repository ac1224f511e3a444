"""A dataset of the Hugging Face Hub becomes pictures that can be read one by one."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

from upscale import atomic
from upscale.errors import InputError, UsageError
from upscale.image.formats import SUFFIXES
from upscale.train.sources import Say
from upscale.weights.hub.files import fetch_dataset

# files that can hold pictures
PATTERNS = (*(f"*{x}" for s in SUFFIXES for x in (s, s.upper())), "*.tar", "*.parquet", "*.mdb")


def fetched(repo: str, root: Path, say: Say, alone: bool = True) -> tuple[Path, str, str]:
    """ORG/NAME[@REVISION] -> (folder under `root`, label with the commit, licence).

    Pictures, tar shards and LMDB lie there as they are; Parquet tables, which cannot be read
    picture by picture, are repacked as tar shards once. What is there is not fetched again.
    alone: one process of several must not fetch. Raises InputError and UsageError.
    """
    name, _, revision = repo.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UsageError(f"--dataset hf:{repo}: want hf:ORG/NAME or hf:ORG/NAME@REVISION")
    folder = root / name.replace("/", "--") / (revision or "main")
    marker = folder / ".diffsr.json"
    if marker.is_file():
        known = json.loads(marker.read_text("utf-8"))
    elif not alone:
        raise InputError(
            f"hf:{repo} is not on this machine yet: fetch it in one process first, "
            f"`diffsr train --dataset hf:{repo} --dry-run`"
        )
    else:
        known = fetch_dataset(name, revision or "main", folder, PATTERNS, say)
        for table in sorted(folder.rglob("*.parquet")):
            repacked(table, say)
        marker.write_text(json.dumps(known), encoding="utf-8")
    return folder, f"hf:{name}@{known['commit'][:12]}", known["licence"]


def repacked(table: Path, say: Say) -> Path:
    """A Parquet table with a column of encoded pictures -> a tar shard in its place."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise InputError(
            f"{table.name} is a Parquet table, which needs an extra: pip install 'diffsr[parquet]'"
        ) from error
    say(f"repacking {table.name} as a tar shard")
    source = parquet.ParquetFile(table)
    column = _picture_column(source.schema_arrow, table)
    shard, number = table.with_suffix(".tar"), 0
    with atomic.replacing(shard) as temporary, tarfile.open(temporary, "w") as tar:
        for rows in source.iter_batches(batch_size=64, columns=[column]):
            for value in rows.column(0).to_pylist():
                content = value.get("bytes") if isinstance(value, dict) else value
                suffix = Path((value.get("path") if isinstance(value, dict) else "") or "").suffix
                if content:
                    # the content tells the format; the suffix only says that it is a picture
                    suffix = suffix if suffix.lower() in SUFFIXES else ".png"
                    entry = tarfile.TarInfo(f"{number:08d}{suffix}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
                number += 1
    source.close()
    table.unlink()
    return shard


def _picture_column(schema: Any, table: Path) -> str:
    """The first column that is {bytes, path} (the Hub's own type), else the first of bytes."""
    for field in schema:
        kind = field.type
        inside = [kind.field(i).name for i in range(kind.num_fields)]
        if "bytes" in inside:
            return field.name
    for field in schema:
        if str(field.type) in ("binary", "large_binary"):
            return field.name
    raise InputError(f"{table}: no column of pictures in it; choose from {', '.join(schema.names)}")
