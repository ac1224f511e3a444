"""The metadata of a trained weights file, and a model card in the form that the
Hugging Face Hub reads."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from upscale import __version__, methods
from upscale.diffusion.process import describe
from upscale.train.data import exact
from upscale.train.log import METRICS, explained
from upscale.train.state import Run


def metadata(run: Run, dataset: str, pictures: int | None = None, licence: str = "") -> dict:
    """The metadata of a weights file: enough to use it without further options."""
    config, spec = run.config, run.spec
    law = methods.get(config.method)
    scales: Any = [config.scale_max]
    if config.scale_min < config.scale_max:
        scales = {"min": config.scale_min, "max": config.scale_max}
    sampling = {"sampler": methods.TRAINED, "steps": 4}
    if law.single or not config.compact:
        sampling = {"sampler": law.sampler, "steps": law.steps}
    if config.quality_loss_from and config.quality_gradient == "direct" and not law.single:
        # trained for few calls; what that leaves of the noise is less visible when cooler
        own = {"steps": 2, "temperature": 0.2 if config.quality_cool else 0.4}
        sampling |= {**own, "sampler": methods.TRAINED}
    if run.taught:  # few calls, from noise as the teacher has it
        own = {"temperature": run.taught["temperature"]}
        sampling = {**own, **sampling, "sampler": methods.TRAINED, "steps": 2}
    size = sum(p.numel() for p in run.net.parameters())
    off = law.unconditional or not exact(config, run.paired)
    return {
        "method": config.method,
        "net": f"{type(run.net).__name__}, {size} parameters",
        "architecture": run.net.architecture(),
        "domain": config.domain,
        "scales": scales,
        "parametrisation": spec.parametrisation,
        "std": spec.std,
        "process": describe(spec.process),
        "defaults": {**sampling, "spacing": "phi"},
        # the noise of a degraded input is not for the result to keep
        "consistency": "off" if off else "project",
        **({"size": [config.patch, config.patch]} if law.unconditional else {}),
        "training": {
            "dataset": dataset,
            "pictures": pictures,
            **({"pairs": run.paired} if run.paired else {}),
            "data_licence": licence,
            "images_seen": run.images_seen,
            "iteration": run.iteration,
            "config": config.to_dict(),
            **({"teacher": run.taught} if run.taught else {}),
            "diffsr": __version__,
            "revision": revision(),
        },
    }


def revision() -> str:
    """The source's git commit, or "" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def card(name: str, metadata: dict[str, Any], best: dict[str, float]) -> str:
    """Markdown with a YAML head, from what is in the file and the best validation."""
    training = metadata["training"]
    config, method = training["config"], metadata["method"]
    generates = methods.get(method).unconditional
    task = "unconditional-image-generation" if generates else "image-to-image"
    tags = f"{method}, diffusion" if generates else f"super-resolution, diffusion, {method}"
    command = "generate -o made/ --count 8" if generates else "upscale in.png"
    lines = [
        "---",
        "library_name: diffsr",
        f"pipeline_tag: {task}",
        f"tags: [{tags}]",
        "---",
        "",
        f"# {name}",
        "",
        f"{method} for {metadata['domain']} pictures, {_sizes(metadata)}; {metadata['net']}.",
        "",
        "```bash",
        f"diffsr {command} --weights {name}.safetensors",
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| data | {training['dataset']} ({training['pictures']:,} pictures) |",
        f"| licence of the data | {training.get('data_licence') or 'not stated'} |",
        *([] if generates else [f"| small pictures by | {_inputs(training)} |"]),
        f"| images seen | {training['images_seen']:,} in {training['iteration']:,} iterations |",
        f"| network tells | {metadata['parametrisation']} |",
        *_taught(training.get("teacher")),
        f"| diffsr | {training['diffsr']}, revision {training['revision'] or 'unknown'} |",
        "",
    ]
    if best:
        lines += [
            f"Best on held-out pictures, after {best['iteration']:,.0f} iterations:",
            *(f"- {title} {best[key]:.4g}" for key, title in METRICS.items() if key in best),
            "",
        ]
    lines += ["## Settings", "", "```"]
    lines += [f"{key} = {value}" for key, value in config.items()]
    lines += [
        "```",
        "",
        "The weights' licence is for whoever trained them to choose, within that of the data.",
        "",
    ]
    return "\n".join(lines)


def _sizes(metadata: dict[str, Any]) -> str:
    """What a network was trained for: magnifications, or the size of what it makes."""
    if "size" in metadata:
        height, width = metadata["size"]
        return f"made from noise alone at {width}x{height}"
    scales = metadata["scales"]
    if isinstance(scales, dict):
        return f"magnification {scales['min']:g} to {scales['max']:g}"
    return f"magnification {', '.join(f'{scale:g}' for scale in scales)}"


def _inputs(training: dict[str, Any]) -> str:
    """How the small pictures came about."""
    made, pairs = training["config"]["degradation"], training.get("pairs", 0)
    if not pairs:
        return made
    if pairs == training["pictures"]:
        return "whoever made the pairs"
    return f"{made}; of {pairs:,} pictures whoever made the pairs"


def _taught(teacher: dict[str, Any] | None) -> list[str]:
    """A line of the table for a student's teacher."""
    if not teacher:
        return []
    way = f"{teacher['kind']} from {teacher['sampler']} in {teacher['steps']} steps"
    return [f"| teacher | {teacher['name']}, {way}, sha256 {teacher['sha256']} |"]


def write_card(path: Path, name: str, metadata: dict[str, Any], best: dict[str, float]) -> None:
    with explained(path):
        path.write_text(card(name, metadata, best), encoding="utf-8")
