"""An upscaler without torch, and `diffsr` as a process that uses it: starts in a fifth of a second.

Run as a script, this file is `diffsr` with the fake in place. Environment: FAKE_SLEEP seconds a
step; FAKE_FULL: every fsync finds the disk full; FAKE_SLOW_WRITE: seconds before it returns.
"""

from __future__ import annotations

import errno
import math
import os
import sys
import time
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np

from upscale.errors import OutOfMemory, UsageError

STEPS = 4


class FakeUpscaler:
    """Repeats pixels. A picture 13 pixels wide does not fit into memory, one of 17 is a fault."""

    def __init__(self, log: list | None = None) -> None:
        self.log = [] if log is None else log

    def plan(self, picture, request):
        size_in, scale, steps = picture.size, request.scale, request.steps
        if request.max_side:
            scale = request.max_side / max(size_in)
        out = request.size or tuple(math.floor(side * scale + 0.5) for side in size_in)
        if min(out) < 1 or (scale and scale < 1):
            raise UsageError("not an enlargement")
        stage = SimpleNamespace(
            size_in=size_in, size_out=out, steps=steps or STEPS, blocks=(),
            parts=[SimpleNamespace(height=out[0], width=out[1])],
        )  # fmt: skip
        return SimpleNamespace(
            request=request, size_in=size_in, size_out=out, scale=out[0] / size_in[0],
            stages=(stage,), sampler=request.sampler or "ddim", nfe=steps or STEPS, tile=0,
            tiles=1, memory=2**20, notes=("planned note",), blocks=(), weights=None, faces=None,
            taken_for=None, denoise=None, degradation=None,
        )  # fmt: skip

    def run(self, plan, picture, *, sample=0, on_step=None, call=None, on_rows=None):
        self.log.append({**asdict(plan.request), "sample": sample})
        if picture.size[1] == 13:
            raise OutOfMemory("does not fit even in tiles of 128")
        if picture.size[1] == 17:
            raise RuntimeError("a fault")
        for step in range(plan.nfe):
            time.sleep(float(os.environ.get("FAKE_SLEEP", 0)))
            on_step(step + 1, plan.nfe)
        rows = np.arange(plan.size_out[0]) * picture.size[0] // plan.size_out[0]
        columns = np.arange(plan.size_out[1]) * picture.size[1] // plan.size_out[1]
        rgb = picture.rgb[rows][:, columns]
        if sample:  # variants differ by 0.2 in one place
            rgb = rgb.copy()
            rgb[0, 0] = np.abs(rgb[0, 0] - 0.2)
        report = {"method": "fake", "steps": plan.nfe, "seed": plan.request.seed,
                  "size_in": picture.size, "size_out": plan.size_out, "scale": plan.scale,
                  "sampler": "ddim", "temperature": 1.0, "lr_psnr": math.inf,
                  "notes": []}  # fmt: skip
        alpha = picture.alpha
        alpha = None if alpha is None else alpha[rows][:, columns]
        made = replace(picture, rgb=rgb, alpha=alpha)
        if on_rows:  # two bands
            for rows in (slice(0, 3), slice(3, None)):
                part = None if alpha is None else alpha[rows]
                on_rows(replace(made, rgb=rgb[rows], alpha=part), report)
        return SimpleNamespace(picture=made, report=report)


def _fsync(number: int) -> None:
    if os.environ.get("FAKE_FULL"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    time.sleep(float(os.environ.get("FAKE_SLOW_WRITE", 0)))


if __name__ == "__main__":
    import signal

    import upscale.cli.upscale.command
    from upscale.cli.main import main

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits it ignored
    os.fsync = _fsync
    upscale.cli.upscale.command.make_upscaler = lambda setup, ends, on_bytes: FakeUpscaler()
    main(sys.argv[1:])
