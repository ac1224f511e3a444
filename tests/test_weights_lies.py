"""Weights whose description is not that of their tensors, or of no network at all: all of them are
refused with a true message, before anything of what they describe is made."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from upscale.errors import WeightsError
from upscale.model import Model, build
from upscale.weights import store

Lie = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def honest() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return store.load(store.find("liif-photo"))


@pytest.fixture(scope="module")
def diffusing() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return store.load(store.find("sr3-face-x8"))


def written(path: Path, state: dict[str, torch.Tensor], text: str) -> Path:
    """A file as others may make it: without a digest."""
    save_file({k: v.contiguous() for k, v in state.items()}, path, metadata={"diffsr": text})
    return path


def used(path: Path) -> Model:
    return build(*store.load(store.find(path)))


def at(*keys: str, value: Any) -> Lie:
    def lie(meta: dict[str, Any]) -> None:
        for key in keys[:-1]:
            meta = meta.setdefault(key, {})
        meta[keys[-1]] = value

    return lie


LIES: list[tuple[str, Lie]] = [
    ("blocks", at("architecture", "blocks", value=10**6)),
    ("a few blocks more", at("architecture", "blocks", value=11)),
    ("layers", at("architecture", "layers", value=10**6)),
    ("layers within bounds", at("architecture", "layers", value=60_000)),
    ("features", at("architecture", "features", value=65_536)),
    ("negative", at("architecture", "features", value=-8)),
    ("a huge number", at("architecture", "features", value=10**400)),
    ("text for a number", at("architecture", "features", value="64")),
    ("no whole number", at("architecture", "features", value=64.5)),
    ("list for a number", at("architecture", "blocks", value=[1] * 10)),
    ("another network", at("architecture", "kind", value="compact")),
    ("no network", at("architecture", "kind", value=["liif"])),
    ("no table", at("architecture", value="liif")),
    ("unknown key", at("architecture", "depth", value=3)),
    ("steps", at("defaults", "steps", value=10**9)),
    ("no steps", at("defaults", "steps", value=0)),
    ("steps that are no number", at("defaults", "steps", value=True)),
    ("sampler", at("defaults", "sampler", value="magic")),
    ("sampler of another type", at("defaults", "sampler", value=["ddim"])),
    ("spacing", at("defaults", "spacing", value={"phi": 1})),
    ("temperature", at("defaults", "temperature", value=float("nan"))),
    ("rungs", at("defaults", "ladder", value={"fast": ["ddim", 10**9]})),
    ("presets", at("defaults", "presets", value={"fast": "ddim"})),
    ("schedules", at("defaults", "schedules", value=[{"sampler": "ddim", "steps": 2}])),
    ("a key of nobody's", at("defaults", "nets", value=["os:system"])),
    ("process steps", at("process", "steps", value=10**9)),
    ("process betas", at("process", "beta_end", value=7.0)),
    ("process kind", at("process", "kind", value=["vp-linear"])),
    ("method", at("method", value="none")),
    ("method of another type", at("method", value=["sr3"])),
    ("parametrisation", at("parametrisation", value=3)),
    ("std", at("std", value="0.24")),
    ("kernel", at("kernel", value=["bicubic"])),
    ("net", at("net", value={"of": "liif"})),
    ("licence", at("licence", value=7)),
    ("a text that moves the cursor", at("licence", value="\x1b[2J")),
    ("card", at("card", value=["a"] * 10)),
    ("domain", at("domain", value=None)),
    ("scales", at("scales", value=[2.0] * 10**5)),
    ("scales without end", at("scales", value={"min": 1, "max": 1e300})),
    ("consistency", at("consistency", value=["project"])),
]  # fmt: skip


@pytest.mark.parametrize(("name", "lie"), LIES, ids=[name for name, _ in LIES])
def test_a_lie_is_refused_at_once(name: str, lie: Lie, honest, tmp_path: Path) -> None:
    state, meta = honest
    meta = json.loads(json.dumps(meta))
    lie(meta)
    path = written(tmp_path / "lie.safetensors", state, json.dumps(meta))
    started = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        used(path)
    assert time.monotonic() - started < 10
    assert len(str(caught.value)) < 1500 and "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        '{"method": ' * 30_000 + "1" + "}" * 30_000,
        '{"method": "liif", "training": ' + "[" * 200 + "]" * 200 + "}",
        '{"method": "liif", "card": "' + "x" * (5 << 20) + '"}',
        "[1]",
        "null",
        '{"method": "liif"',
    ],
    ids=["too deep for a parser", "too deep", "too long", "list", "nothing", "cut"],
)
def test_a_header_that_is_no_description(text: str, honest, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"its header|damaged"):
        used(written(tmp_path / "lie.safetensors", honest[0], text))


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.to(torch.int64),
        lambda v: v.to(torch.complex64),
        lambda v: v.flatten(),
        lambda v: v[:0],
    ],
    ids=["int64", "complex", "another shape", "empty"],
)
def test_tensors_that_are_not_the_networks(change, honest, tmp_path: Path) -> None:
    state, meta = honest
    state = {k: change(v) for k, v in state.items()}
    with pytest.raises(WeightsError, match="weights and their own description disagree"):
        used(written(tmp_path / "lie.safetensors", state, json.dumps(meta)))


def test_lies_about_a_network_that_diffuses(diffusing, tmp_path: Path) -> None:
    state, meta = diffusing
    for change in ({"channels": [64] * 10**5}, {"encoder": 10**6}, {"head": [2, -2]}):
        lie = {**meta, "architecture": {**meta["architecture"], **change}}
        with pytest.raises(WeightsError, match="cannot build"):
            used(written(tmp_path / "lie.safetensors", state, json.dumps(lie)))
    assert used(written(tmp_path / "true.safetensors", state, json.dumps(meta))).method == "sr3"
