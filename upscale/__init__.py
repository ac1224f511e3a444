"""diffsr: a diffusion image upscaler.

    from upscale import Upscaler

    Upscaler("ecdp")("in.png", scale=4).save("out.png")

docs/api.md says more. The names are loaded when they are first used: importing this package costs
nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upscale.batch.many import Made, upscale_many
    from upscale.image.decode import read
    from upscale.image.encode import write
    from upscale.image.frames_in import Film, read_frames
    from upscale.image.frames_out import write_frames
    from upscale.image.picture import Picture
    from upscale.methods import METHODS
    from upscale.pipeline.upscaler import Result, Upscaler

__version__ = "0.1.0"
__all__ = [
    "METHODS", "Film", "Made", "Picture", "Result", "Upscaler", "__version__", "read",
    "read_frames", "upscale_many", "write", "write_frames",
]  # fmt: skip

_HOMES = {
    "Film": "image.frames_in",
    "METHODS": "methods",
    "Made": "batch.many",
    "Picture": "image.picture",
    "Result": "pipeline.upscaler",
    "Upscaler": "pipeline.upscaler",
    "read": "image.decode",
    "read_frames": "image.frames_in",
    "upscale_many": "batch.many",
    "write": "image.encode",
    "write_frames": "image.frames_out",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
