"""The account of a picture, as --json has it, in words."""

from __future__ import annotations

import math
from typing import Any

from upscale.document import counted, duration


def facts(record: dict[str, Any]) -> list[tuple[str, str]]:
    """What a user may want to know of a result: (title, text), in the order of the page."""
    (height, width), (tall, wide) = record["size_in"], record["size_out"]
    found = [
        ("Size", f"{width} x {height} to {wide} x {tall} pixels, {record['scale']:g} times"),
        ("Weights", _weights(record)),
        ("Sampling", _sampling(record)),
        ("Agreement", _agreement(record)),
        ("Time", f"{duration(record['seconds'])} on {record.get('device', 'this machine')}"),
        *(("Note", note) for note in record.get("notes", [])),
    ]
    return [(title, text) for title, text in found if text]


def _weights(record: dict[str, Any]) -> str:
    text = record.get("weights") or record["method"]
    if record.get("taken_for"):
        text += f", for {record['taken_for']} input"
    if record.get("denoise"):
        text += f", cleaned with a strength of {record['denoise']:g}"
    return text


def _sampling(record: dict[str, Any]) -> str:
    if not record.get("sampler"):
        return ""
    steps = counted(record["steps"], "step") if record.get("steps") else "steps of its own choice"
    calls = counted(record["nfe"], "call") if record.get("nfe") else "no call"
    return f"{record['sampler']}, {steps}, {calls} of the network, seed {record['seed']}"


def _agreement(record: dict[str, Any]) -> str:
    """How near the result, shrunk, is to the input."""
    if record.get("consistency") is None:
        return ""
    levels = 255 * math.sqrt(record["consistency"] * 1e-5)
    return (
        f"shrunk again, it differs from the input by {levels:.2g} of 255 grey levels "
        f"(root mean square; {record['lr_psnr']:.1f} dB)"
    )
