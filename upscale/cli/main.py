"""The program `diffsr`: it loads the command that is called and returns an exit code."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from upscale import __version__, atomic, errors, signals
from upscale.cli.environment import OFF, PREFIX, is_quiet, unread
from upscale.cli.help import CONTEXT, Command, Group
from upscale.cli.progress import printable
from upscale.errors import OUT_OF_MEMORY, DiffsrError, DiskFull, OutOfMemory, UsageError

DEFAULT = "upscale"
COMMANDS = {  # name -> its line in `diffsr --help`; upscale/cli/NAME has its `command`
    "upscale": "Enlarge pictures (the default: `diffsr in.png` works too).",
    "ui": "Enlarge pictures on a page in the browser.",
    "generate": "Make pictures from noise alone.",
    "train": "Train weights from a folder of pictures.",
    "bench": "Measure methods on a folder of pictures.",
    "weights": "List, fetch, check, convert and publish weights.",
    "humaneval": "Ask people which of two pictures is real.",
    "doctor": "Print what a bug report needs.",
    "completion": "Print a completion script for your shell.",
}
_ALONE = {"doctor", "ui"}  # commands that are one file
_OWN = {"-h", "--help", "--version"}

EXIT_CODES = """\b
Exit codes:
  0    everything is done
  1    some pictures failed (the others are written), or a picture cannot be written
  2    options or arguments are wrong
  3    the input cannot be read
  4    memory or disk space ran out
  5    weights are missing or wrong
  129  ended by SIGHUP, as where a terminal is closed
  130  interrupted by Ctrl-C
  143  ended by SIGTERM"""


class Commands(Group):
    """Loads a command when it is called; arguments without a command go to the default one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name == "completion":
            return completion
        if name not in COMMANDS:
            return None
        module = name if name in _ALONE else f"{name}.command"
        return importlib.import_module(f"upscale.cli.{module}").command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        found = super().resolve_command(ctx, args)
        quiet = {"-q", "--quiet"} & set(args) or is_quiet(found[0] or "")
        if not (quiet or ctx.resilient_parsing) and (text := unread(self)):
            click.echo(printable(text), err=True)
        return found

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in COMMANDS and args[0] not in _OWN:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):  # click's own would import every command
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [
            CompletionItem(name, help=text)
            for name, text in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        if incomplete.startswith("-"):
            default = self.get_command(ctx, DEFAULT)
            inner = click.Context(default, parent=ctx, info_name=DEFAULT)
            return super().shell_complete(ctx, incomplete) + default.shell_complete(
                inner, incomplete
            )
        return [*found, CompletionItem(incomplete, type="file")]


@click.group(
    cls=Commands,
    examples=[
        ("diffsr in.png", "write in_x4.png beside it"),
        ("diffsr in.jpg --scale 2.5", "write in_x2.5.jpg"),
        ("diffsr photos/ -o large/", "enlarge a whole folder"),
    ],
    help="Enlarge photos and faces with diffusion models. "
    "`diffsr COMMAND --help` shows the options of a command; those that are to hold always may "
    "stand in ~/.config/diffsr/config.toml.",
    context_settings={**CONTEXT, "auto_envvar_prefix": PREFIX},
    epilog=EXIT_CODES,
)
@click.version_option(__version__, prog_name="diffsr")
def cli() -> None:
    """The root command; see `Commands`."""


@click.command(
    cls=Command,
    examples=[
        ('eval "$(diffsr completion bash)"', "in ~/.bashrc"),
        ('eval "$(diffsr completion zsh)"', "in ~/.zshrc"),
        ("diffsr completion fish | source", "in ~/.config/fish/config.fish"),
    ],
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL."""
    script = get_completion_class(shell)(cli, {}, "diffsr", "_DIFFSR_COMPLETE")
    click.echo(ShellComplete.source(script))  # bash's own first runs bash to ask its version


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run `diffsr` with `args` (by default those of the process) and exit."""
    _open_streams()
    args = list(sys.argv[1:] if args is None else args)
    debug = debugging(args)
    if not debug and not sys.warnoptions:
        warnings.simplefilter("ignore")  # users read our own lines on standard error
    # torch's threads spin for milliseconds while they wait for each other, and so fight for the
    # cores with other busy programs; this is read when torch is loaded (docs/performance.md)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signals.catch()
    errors.options = True
    sys.exit(_flush(_run(args, debug)))


def _open_streams() -> None:
    """Where standard output or error is closed, what is written to it goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = open(os.devnull, "w", encoding="utf-8", errors="replace")  # noqa: SIM115
            setattr(sys, name, nowhere)


def debugging(args: Sequence[str] = ()) -> bool:
    """Whether --debug or DIFFSR_DEBUG (anything but 0, no, false, off) asks for tracebacks."""
    wish = os.environ.get("DIFFSR_DEBUG", "").lower()
    return "--debug" in args or wish not in OFF


def _run(args: list[str], debug: bool) -> int:
    try:
        value = cli.main(args, prog_name="diffsr", standalone_mode=False)
        return value if isinstance(value, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        cause = error.__cause__ or error  # click makes an Abort of the first
        with suppress(OSError):  # the terminal may be gone
            click.echo(printable(str(cause) or "Interrupted."), err=True)
        return 128 + getattr(cause, "number", signal.SIGINT)
    except BrokenPipeError:
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _said(explained(error))


def _said(error: DiffsrError) -> int:
    """Show an error; returns its exit code."""
    with suppress(OSError):  # the error may be that standard error takes no more
        click.echo(printable(f"Error: {error}"), err=True)
    return error.exit_code


def explained(error: Exception) -> DiffsrError:
    """Any exception as one of ours."""
    if isinstance(error, DiffsrError):
        return error
    text = str(error).lower()
    if (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and any(words in text for words in OUT_OF_MEMORY))
    ):
        return OutOfMemory("memory ran out; try --tile 128, or a smaller --scale")
    if isinstance(error, (NotImplementedError, TypeError)) and "mps" in text:
        # torch: "The operator ... is not currently implemented for the MPS device", or float64
        return UsageError(
            "torch lacks an operation for MPS that this needs: set PYTORCH_ENABLE_MPS_FALLBACK=1, "
            f"which does it on the CPU, or take --device cpu ({str(error).splitlines()[0]})"
        )
    if atomic.full(error):
        return DiskFull(f"{getattr(error, 'filename', None) or 'output'}: the disk is full; "
                        "make room")  # fmt: skip
    if isinstance(error, click.ClickException):
        return UsageError(error.format_message())
    return DiffsrError(unexpected(error))


def unexpected(error: Exception) -> str:
    """The message for an exception that diffsr does not define."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}"
    return (
        f"{type(error).__name__}: {error}. This is a fault of diffsr: run again with --debug "
        "and report it with the output of `diffsr doctor`"
    )


def _flush(code: int) -> int:
    """Send what is left of the output; returns the exit code."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # or Python complains about it while it shuts down
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code == 0 and not isinstance(error, BrokenPipeError):
            return _said(explained(error))
    return code
