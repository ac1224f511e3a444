"""Enlarge a picture with weights that `diffsr weights export` wrote, without diffsr and torch.

    diffsr weights export ecdp-photo --onnx ecdp-photo.onnx
    pip install onnxruntime numpy pillow
    python run_onnx.py ecdp-photo.onnx small.png large.png 4

`enlarged` is all there is to it, and needs onnxruntime and numpy alone. The noise is numpy's, so
the details differ from those of diffsr, as those of two seeds differ.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime


def enlarged(
    session: onnxruntime.InferenceSession, lr: np.ndarray, scale: float = 4.0, seed: int = 0
) -> np.ndarray:
    """A picture (h,w,3) of floats in [0,1], RGB -> a larger one of the same kind."""
    facts = session.get_modelmeta().custom_metadata_map
    if facts["sampler"] not in ("ddim", "once"):
        raise ValueError(f"these weights need the sampler {facts['sampler']}, and this is ddim")
    size = [round(side * scale) for side in lr.shape[:2]]
    noise = np.random.default_rng(seed).standard_normal((1, 3, *size), dtype=np.float32)
    return sampled(session, lr.transpose(2, 0, 1)[None], noise)[0].transpose(1, 2, 0)


def sampled(session: onnxruntime.InferenceSession, lr: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The loop over the noise levels: lr (batch,3,h,w) in [0,1] and noise (batch,3,height,width) of
    the size wanted -> pictures (batch,3,height,width) in [0,1]."""
    facts = session.get_modelmeta().custom_metadata_map
    levels = [*json.loads(facts["sigmas"]), 0.0]  # descending
    x = np.float32(levels[0] * json.loads(facts["temperature"])) * noise
    for now, after in zip(levels, levels[1:], strict=False):
        feeds = {"lr": lr.astype(np.float32), "x": x, "sigma": np.array([now], np.float32)}
        denoised, picture = session.run(["denoised", "picture"], feeds)
        # to the next level, along the line from the noisy target to the estimate (ddim)
        x = denoised + np.float32(after / now) * (x - denoised)
    return picture


def main(model: str, source: str, target: str, scale: str = "4") -> None:
    from PIL import Image

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    lr = np.asarray(Image.open(source).convert("RGB"), np.float32) / 255
    sr = enlarged(session, lr, float(scale))
    Image.fromarray((sr * 255).round().astype(np.uint8)).save(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
