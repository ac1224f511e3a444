"""Weights made ready for the Hub: the file, its card, its golden vectors, its entry for a list."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from upscale import methods
from upscale.errors import InputError, UsageError
from upscale.model import Model, build
from upscale.weights import file as tensors
from upscale.weights import golden, store
from upscale.weights.hub.names import Hub

# licences that the Hub knows by a name of its own; others are "other", with their text
_KNOWN = frozenset({"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0"})


def bundle(
    entry: store.Entry, repo: str, licence: str, card: Path | None = None
) -> dict[str, bytes]:
    """Everything to upload, by its name in the repository: NAME.safetensors, its golden vectors,
    README.md. The weights are checked and run before. Raises UsageError, InputError, WeightsError.
    """
    file = file_of(entry)
    if entry.method == methods.foreign():
        raise UsageError(f"{entry.name} is another program's: give it on as you got it")
    if entry.head_of:
        raise UsageError(f"{entry.name} is a head of {entry.head_of}: publish that")
    if not licence:
        raise UsageError(f"{entry.name} names no licence: under which one is it given? --licence")
    content = store.locate(entry).read_bytes()
    state, metadata = store.load(entry)
    made = {file: content}
    if entry.domain != "metric":  # whose networks are other packages'
        made[golden.name_for(file)] = _tested(entry, build(state, metadata))
    text = _read(card) if card else _card(entry, metadata, Hub(repo, file=file))
    return made | {"README.md": (_front_matter(licence, entry) + text).encode()}


def _tested(entry: store.Entry, model: Model) -> bytes:
    """The file of its golden vectors."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / golden.name_for(entry.name.replace("/", "-"))
        golden.store(golden.make(model, max(entry.scales, default=4.0)), entry.sha256, path)
        return path.read_bytes()


def file_of(entry: store.Entry) -> str:
    """What the weights' file is called on the Hub."""
    return Path(entry.hub.file).name if entry.hub else f"{entry.name}.safetensors"


def listed(entry: store.Entry, hub: Hub, licence: str) -> str:
    """The table that tells of it in weights.toml, in place of the one that is there: what is
    bundled stays so, and a package without it fetches it. Its card is the repository's until
    there is one in the documentation."""
    scales: Any = [_number(scale) for scale in entry.scales]
    if entry.any_scale:
        scales = f"{{ min = {scales[0]}, max = {scales[1]} }}"
    texts = {"method": entry.method, "net": entry.net or entry.method, "domain": entry.domain}
    last = {"licence": licence, "card": entry.card or f"hf:{hub.repo}"}
    lines = [f"[weights.{entry.name if entry.source else Path(hub.file).stem}]"]
    lines += [f"{key} = {_quoted(value)}" for key, value in texts.items()]
    for key in ("shrinks_to", "stages_past", "steps_to", "enlarged_to"):
        if getattr(entry, key) is not None:
            lines.append(f"{key} = {_number(getattr(entry, key))}")
    if entry.input != "clean":
        lines.append(f"input = {_quoted(entry.input)}")
    lines += [f"scales = {scales}", f'sha256 = "{entry.sha256}"', f"size = {entry.size}"]
    lines += [f"{key} = {_quoted(value)}" for key, value in last.items()]
    lines += [f"bundled = {_quoted(entry.bundled)}"] if entry.bundled else []
    place = {"repo": hub.repo, "revision": hub.revision, "file": hub.file}
    lines += [f"hub = {{ {', '.join(f'{k} = {_quoted(v)}' for k, v in place.items())} }}"]
    return "\n".join(lines) + "\n"


def write(files: dict[str, bytes], folder: Path) -> None:
    """The files into a folder instead of a repository."""
    for name, content in files.items():
        tensors.write_whole(folder / name, content)


def _card(entry: store.Entry, metadata: dict[str, Any], hub: Hub) -> str:
    """A card made from the metadata of the file."""
    law = metadata.get("defaults", {})
    sampling = ", ".join(f"{key} {value}" for key, value in sorted(law.items()))
    rows = {
        "method": entry.method, "network": entry.net, "domain": entry.domain,
        "scales": entry.scales_text(), "parametrisation": metadata.get("parametrisation", ""),
        "process": json.dumps(metadata.get("process", {})), "default": sampling,
        "size": f"{entry.size} bytes", "sha256": f"`{entry.sha256}`",
    }  # fmt: skip
    for key in ("training", "imported"):
        if key in metadata:
            rows[key] = f"`{json.dumps(metadata[key], sort_keys=True)}`"
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    name = f"hf:{hub.repo}/{hub.file}"
    command = "diffsr generate -o made/" if _generates(entry) else "diffsr in.png"
    use = f"```bash\n{command} --weights {name}\ndiffsr weights verify --golden {name}\n```\n\n"
    return (
        f"# {Path(hub.file).stem}\n\nWeights for diffsr, a diffusion image upscaler.\n\n"
        f"{'' if entry.domain == 'metric' else use}| | |\n|---|---|\n{table}\n"
    )


def _generates(entry: store.Entry) -> bool:
    """Whether the weights make pictures from noise alone."""
    return entry.domain != "metric" and methods.get(entry.method).unconditional


def _front_matter(licence: str, entry: store.Entry) -> str:
    """What the Hub reads of a card (YAML; JSON's strings are some of its)."""
    known = licence.lower() in _KNOWN
    lines = [f"license: {licence.lower() if known else 'other'}"]
    lines += [] if known else [f"license_name: {_quoted(licence)}"]
    generates = _generates(entry)
    task = "unconditional-image-generation" if generates else "image-to-image"
    tag = entry.method if generates else "super-resolution"
    lines += ["library_name: diffsr", f"pipeline_tag: {task}", f"tags: [{tag}]"]
    return "---\n" + "\n".join(lines) + "\n---\n\n"


def _read(card: Path) -> str:
    try:
        return card.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{card}: the card cannot be read: {error}") from error


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else value
