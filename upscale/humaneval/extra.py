"""What the extra `humaneval` installs, and what is said where it is not."""

from __future__ import annotations

from importlib.util import find_spec

from upscale.errors import UsageError


def require(*modules: str) -> None:
    """UsageError naming the extra where one of `modules` is not installed."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"`diffsr humaneval` needs {', '.join(missing)}; install the extra: "
            "pip install 'diffsr[humaneval]'"
        )
