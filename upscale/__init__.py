"""diffsr: a diffusion image upscaler.

    from upscale import Upscaler, read, write

    result = Upscaler("sr3")(read("in.png"), scale=4)
    write(result.picture, "out.png")

The names are loaded when they are first used: importing this package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upscale.image.io import read, write
    from upscale.image.picture import Picture
    from upscale.methods import METHODS
    from upscale.pipeline import Result, Upscaler

__version__ = "0.1.0"
__all__ = ["METHODS", "Picture", "Result", "Upscaler", "__version__", "read", "write"]

_HOMES = {
    "METHODS": "methods",
    "Picture": "image.picture",
    "Result": "pipeline",
    "Upscaler": "pipeline",
    "read": "image.io",
    "write": "image.io",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
