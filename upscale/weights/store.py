"""From a name, a path or a place on the Hub to a verified file and its tensors.

A listed file is used only after its sha256 was compared with the list, one of the Hub's cache
after it was compared with what the Hub calls it; one saved by `save` carries a digest of its own,
compared by `read`. Files of other programs are recognised by what they hold (`others`).
"""

from __future__ import annotations

import difflib
import hashlib
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upscale.errors import DamagedWeights, DiskFull, UsageError, WeightsError
from upscale.methods import foreign
from upscale.model import headed
from upscale.weights import others
from upscale.weights.file import DISCRIMINATOR, header_of, metadata_of, read
from upscale.weights.file import save as save  # beside `load`, for those who use both
from upscale.weights.hub import files
from upscale.weights.hub.files import OnBytes
from upscale.weights.hub.names import Hub, parse
from upscale.weights.pickles import PICKLES
from upscale.weights.registry import BARE_VARIABLE, Entry, at_home, entries, scales_of

if TYPE_CHECKING:
    import torch

_verified: dict[tuple[str, int, int], str] = {}  # (path, mtime_ns, size) -> sha256


def find(name_or_path: str | Path, offline: bool = False, on_bytes: OnBytes | None = None) -> Entry:
    """The entry of that name, or one made from the own metadata of a local .safetensors file (also
    that of a training run's folder) or of a file on the Hub (hf:ORG/REPO[@REVISION]/FILE), which is
    fetched unless the cache has it; or, for files of other programs (.pth, .safetensors), from what
    network they hold."""
    text = str(name_or_path)
    if text.startswith("hf:"):
        return _remote(parse(text), offline, on_bytes)
    known = entries()
    if text in known:
        return known[text]
    if not text:
        raise UsageError("no weights named: give a name, a file or hf:ORG/REPO/FILE")
    path = at_home(text)
    if path.is_dir():
        path = _of_run(path)
    named = path.suffix.lower() in (".safetensors", *PICKLES)
    if named or path.is_file() or len(Path(text).parts) > 1:
        return _local(path)
    near = difflib.get_close_matches(text, known, n=1)
    hint = f"did you mean {near[0]}? Choose" if near else "choose"
    have = ", ".join(name for name, entry in known.items() if entry.domain != "metric") or "none"
    raise WeightsError(f"no weights named {text}; {hint} from {have}, or give a .safetensors file")


def _of_run(folder: Path) -> Path:
    """The file in a training run's folder: the last weights, or where there are none the best."""
    found = {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
    saved = [path for name, path in found.items() if name.startswith("checkpoint-")]
    made = [p for name, p in found.items() if not name.startswith(("checkpoint-", "failed-"))
            and not (name.endswith("-best") and name.removesuffix("-best") in found)]  # fmt: skip
    if len(made) == 1:
        return made[0]
    if made:
        raise WeightsError(f"{folder} has several weights; name one: {', '.join(map(str, made))}")
    if saved:
        raise WeightsError(f"{folder} has no weights yet. {_importing(saved[-1])}")
    raise WeightsError(f"{folder}: no weights (.safetensors) in this folder")


def _importing(checkpoint: Path) -> str:
    """What to type where a checkpoint of training stands for weights."""
    target = shlex.quote(f"{checkpoint.stem}-weights.safetensors")
    return (
        f"Make them of the checkpoint: diffsr weights import {shlex.quote(str(checkpoint))} "
        f"-o {target}, then: --weights {target}"
    )


def _local(path: Path) -> Entry:
    """The entry of a file that is not in the list, from the metadata `save` put into it, or from
    what network it holds."""
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file")
    if others.is_foreign(path):
        if path.suffix == ".safetensors" and "record" in header_of(path):
            raise WeightsError(f"{path} holds no weights to use. {_importing(path)}")
        meta = others.metadata_of(path, sha256_of(path))
    else:
        meta = metadata_of(path)
    if not _named(meta.get("method")):
        raise WeightsError(
            f"{path}: its header does not say which method it is for; was it saved by diffsr?"
        )
    scales = scales_of(meta.get("scales", []))
    if scales is None:
        raise WeightsError(f"{path}: its header's scales are invalid: {meta['scales']!r:.80}")
    for key in _TEXTS:
        if not _named(meta.get(key, "")):
            raise WeightsError(f"{path}: its header's {key} is no line of text: save it again")
    texts = {key: meta.get(key, "") for key in ("net", "licence", "card")}
    return Entry(
        name=path.stem,
        method=meta["method"],
        domain=meta.get("domain", "photo"),
        scales=scales,
        any_scale=isinstance(meta.get("scales"), dict),
        sha256=sha256_of(path),
        size=path.stat().st_size,
        path=path,
        input=_input_of(meta),
        **texts,
    )


_TEXTS = ("net", "licence", "card", "domain", "consistency", "parametrisation")


def _named(value: Any) -> bool:
    """Whether it is a text that can stand in a line of a terminal."""
    return isinstance(value, str) and len(value) <= 1000 and value.isprintable()


def _input_of(meta: dict[str, Any]) -> str:
    """What a file's weights are for, by how their small pictures were made."""
    found: Any = meta.get("input")
    if found is None:
        for key in ("training", "config", "degradation"):
            meta = meta.get(key, {}) if isinstance(meta, dict) else {}
        found = meta
    return "real" if found in ("real", "mixed") else "clean"


def _remote(hub: Hub, offline: bool, on_bytes: OnBytes | None) -> Entry:
    """The entry of an unlisted file on the Hub. What the cache has is used without asking the Hub
    for news of a branch: that is `pull`'s."""
    if not hub.file:
        raise UsageError(f"{hub} names no file; `diffsr weights pull {hub}` says which there are")
    path = files.cached(hub) or files.fetch(hub, offline=offline, on_bytes=on_bytes)
    return _checked(hub, path)


def _checked(hub: Hub, path: Path) -> Entry:
    """The entry of an unlisted file in the cache; a damaged one is removed from it."""
    exact = replace(hub, revision=files.pinned_by(path))
    with files.removing_damaged(path):
        files.check_sent(path)
        return replace(_local(path), name=str(exact), hub=exact)


# --- files --------------------------------------------------------------------------------------


def locate(entry: Entry, offline: bool = False, on_bytes: OnBytes | None = None) -> Path:
    """The entry's file on this machine, its sha256 checked: bundled, cached, or downloaded.

    offline: never ask the network. on_bytes(done, all) while it is downloaded. A damaged file in
    the Hub's cache is removed, so that the next run fetches it anew.
    Raises WeightsError (missing, damaged, unreachable) and DiskFull.
    """
    if entry.path is not None:
        changed = "; it changed while diffsr was running: run again"
        return _verify(entry, entry.path, changed if entry.source is None else "; fetch it again")
    if (inside := entry.inside) is not None:
        return _verify(entry, inside, "; install diffsr again")
    if entry.hub is None:
        raise WeightsError(
            f"{entry.name}: {entry.bundled} is not in this package (or {BARE_VARIABLE} is set), "
            "and weights.toml names no place on the Hub for it; install diffsr again, with weights"
        )
    path = files.cached(entry.hub)
    if path is None:
        try:
            path = files.fetch(
                entry.hub, sha256=entry.sha256, size=entry.size, offline=offline, on_bytes=on_bytes
            )
        except (WeightsError, DiskFull) as error:
            raise type(error)(f"{entry.name}: {error}") from error
    with files.removing_damaged(path):
        return _verify(entry, path.resolve())


def _verify(entry: Entry, path: Path, cure: str = "") -> Path:
    """`path` if it is the entry's file. Raises WeightsError, DamagedWeights."""
    try:
        size, found = path.stat().st_size, sha256_of(path)
    except OSError as error:
        raise WeightsError(f"{entry.name}: {path}: {error.strerror}{cure}") from error
    wrong = ""
    if size != entry.size:
        wrong = f"{size} bytes, not {entry.size}"
    elif found != entry.sha256:
        wrong = f"its sha256 is {found}, not {entry.sha256}"
    if wrong:
        raise DamagedWeights(f"{entry.name}: {path} is damaged: {wrong}{cure}")
    return path


def pull(
    name: str, revision: str | None = None, offline: bool = False, on_bytes: OnBytes | None = None
) -> tuple[Entry, Path]:
    """Bring weights to this machine, asking the Hub for the newest where a branch is named.

    name: of a list, or hf:ORG/REPO[@REVISION][/FILE], without FILE the only weights that the
    repository has. revision: of those, instead of its own. Raises WeightsError, UsageError.
    """
    if not name.startswith("hf:"):
        if revision is not None:
            raise UsageError(f"--revision is for hf:ORG/REPO/FILE; {name} stands for one file")
        entry = find(name)
        return entry, locate(entry, offline, on_bytes)
    hub = parse(name, revision)
    if not hub.file:
        hub = replace(hub, file=_only(hub, files.listing(hub, offline)))
    path = files.cached(hub) if hub.pinned or offline else None
    entry = _checked(hub, path or files.fetch(hub, offline=offline, on_bytes=on_bytes))
    return entry, locate(entry)


def _only(hub: Hub, found: list[Hub]) -> str:
    """The name of the one file that a listing holds."""
    if len(found) == 1:
        return found[0].file
    have = ", ".join(f"{hub}/{file.file}" for file in found)
    several = f"has several weights; name one: {have}"
    raise WeightsError(f"{hub} {several if found else 'has no weights (.safetensors)'}")


def state_of(entry: Entry) -> str:
    """bundled, local, cached, remote or missing; asks no network and checks nothing."""
    if entry.inside:
        return "bundled"
    if entry.hub is None:
        return "missing" if entry.bundled else "local"
    return "cached" if files.cached(entry.hub) else "remote"


def remove(name: str) -> Path:
    """Take weights off the Hub's cache; returns the path that was. Raises WeightsError."""
    hub = parse(name) if name.startswith("hf:") else find(name).hub
    if hub is None:
        raise WeightsError(f"{name} is no file of the Hub's cache: remove it as any other file")
    path = files.cached(hub) if hub.file else None
    if path is None:
        raise WeightsError(f"{name} is not in the Hub's cache")
    files.discard(path)
    return path


def sha256_of(path: Path) -> str:
    """The file's sha256 in hex; read again only if its time or size changed."""
    status = path.stat()
    key = (str(path.resolve()), status.st_mtime_ns, status.st_size)
    if key not in _verified:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        _verified[key] = digest.hexdigest()
    return _verified[key]


# --- tensors ------------------------------------------------------------------------------------


def load(
    entry: Entry,
    device: str | torch.device = "cpu",
    offline: bool = False,
    on_bytes: OnBytes | None = None,
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(state dict with the stored dtypes, metadata) of a verified file. Raises as `locate`."""
    path = locate(entry, offline, on_bytes)
    with files.removing_damaged(files.cached(entry.hub) if entry.hub else None):
        if entry.method == foreign():
            return others.read(path, entry.sha256)
        state, metadata = read(path, device)
    state = {k: v for k, v in state.items() if not k.startswith(DISCRIMINATOR)}
    return headed(state, metadata, entry.method, entry.name) if entry.head_of else (state, metadata)


def discriminator(entry: Entry) -> dict[str, torch.Tensor]:
    """The state dict of the discriminator that learnt beside the weights; {} where their file has
    none. Raises as `locate`."""
    state, _ = read(locate(entry))
    return {
        k.removeprefix(DISCRIMINATOR): v.float()
        for k, v in state.items()
        if k.startswith(DISCRIMINATOR)
    }


def described(entry: Entry, path: Path) -> dict[str, Any]:
    """What its file says of itself, or of a file of another program what network it holds."""
    if entry.method == foreign():
        return others.metadata_of(path, entry.sha256)
    return metadata_of(path)
