"""A node for ComfyUI that enlarges images with diffsr.

To install it, copy this file into ComfyUI's folder `custom_nodes`, and install diffsr into the
Python that ComfyUI runs with: `pip install diffsr` in its environment, or for the portable version
on Windows `python_embeded\\python.exe -m pip install diffsr`. Then restart ComfyUI: the node is
called "Upscale (diffsr)", in the menu under image/upscaling. The weights are in the package, so
nothing else need be downloaded.

Images of a batch are enlarged one after another, each as if it were alone. A fourth channel is
taken for opacity and kept. One model stays in memory between runs, until other settings need
another one.
"""

from __future__ import annotations

from typing import Any

import torch

try:
    from comfy import model_management
    from comfy.utils import ProgressBar
except ImportError:  # outside of ComfyUI, where this file is tested
    model_management = ProgressBar = None

AUTO = "auto"
PARTS = 100  # of an image, in the progress bar
_kept: dict[tuple[str, ...], Any] = {}  # the one upscaler in memory, by what it was made with


class DiffsrUpscale:
    """The node; one function, from IMAGE to IMAGE."""

    DESCRIPTION = "Enlarges images from 1 to 16 times with diffusion models (SR3, IDM, ECDP)."
    CATEGORY = "image/upscaling"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, tuple]]:
        return {
            "required": {
                "image": ("IMAGE",),
                "scale": (
                    "FLOAT",
                    {"default": 4.0, "min": 1.0, "max": 16.0, "step": 0.1,
                     "tooltip": "How many times as wide and high the result is."},
                ),
                "method": (
                    [AUTO, "sr3", "idm", "ecdp"],
                    {"default": AUTO, "tooltip": "auto takes the best one for the scale."},
                ),
                "steps": (
                    "INT",
                    {"default": 0, "min": 0, "max": 1000,
                     "tooltip": "Steps of the sampler. 0 takes the number that the weights were "
                                "trained for, which is best for nearly all of them."},
                ),
                "input": (
                    [AUTO, "clean", "real"],
                    {"default": AUTO,
                     "tooltip": "real: noisy, compressed or blurred images, which are cleaned. "
                                "clean: rendered or shrunk ones. auto looks at each image; it "
                                "only does so while the method is auto, too."},
                ),
                "denoise": (
                    "FLOAT",
                    {"default": -1.0, "min": -1.0, "max": 1.0, "step": 0.05,
                     "tooltip": "How far noise and blocks are cleaned, from 0 to 1. Below 0 "
                                "`input` decides."},
                ),
                "seed": (
                    "INT",
                    {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF,
                     "control_after_generate": True,
                     "tooltip": "The same seed and image give the same result."},
                ),
            }
        }  # fmt: skip

    def upscale(
        self,
        image: torch.Tensor,
        scale: float,
        method: str,
        steps: int,
        input: str,
        denoise: float,
        seed: int,
    ) -> tuple[torch.Tensor]:
        """image (B,H,W,C) of floats in [0,1], C = 3 or 4 -> the same, larger. Errors say in plain
        words what to change; ComfyUI shows them at the node."""
        upscaler = upscaler_for(method, input)
        bar = ProgressBar(PARTS * len(image)) if ProgressBar else None
        large = []
        for index, one in enumerate(image):

            def on_step(done: int, steps: int, index: int = index) -> None:
                if model_management:
                    model_management.throw_exception_if_processing_interrupted()
                if bar:
                    bar.update_absolute(PARTS * index + PARTS * done // steps)

            planes = one.movedim(-1, 0).float().clamp(0, 1)  # other nodes overshoot a little
            made = upscaler(
                planes,
                scale=scale,
                steps=steps or None,
                denoise=None if denoise < 0 else denoise,
                seed=seed,
                on_step=on_step,
            )
            large.append(made.movedim(0, -1))
        return (torch.stack(large),)


def upscaler_for(method: str, input: str) -> Any:
    """The upscaler for these settings: the one in memory, or a new one in its place."""
    key = (method, input, device())
    if key not in _kept:
        try:
            from upscale import Upscaler
        except ImportError as error:
            raise RuntimeError(
                f"diffsr is not installed in the Python that runs ComfyUI ({error}): "
                "pip install diffsr"
            ) from error
        _kept.clear()
        chosen = None if method == AUTO else method
        _kept[key] = Upscaler(chosen, input=input, device=key[-1])
    return _kept[key]


def device() -> str:
    """ComfyUI's own device, where diffsr knows its kind."""
    if model_management is None:
        return AUTO
    chosen = model_management.get_torch_device()
    return str(chosen) if chosen.type in ("cpu", "cuda", "xpu", "mps") else AUTO


NODE_CLASS_MAPPINGS = {"DiffsrUpscale": DiffsrUpscale}
NODE_DISPLAY_NAME_MAPPINGS = {"DiffsrUpscale": "Upscale (diffsr)"}
