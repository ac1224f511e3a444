"""`diffsr ui`: a page on this machine on which pictures are enlarged and looked at."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from upscale.batch.files import Files
from upscale.batch.names import STDOUT, prepare
from upscale.batch.remote import is_url
from upscale.cli.help import Command
from upscale.cli.options import (
    ANY_PATH,
    DEBUG,
    ONE_METHOD,
    QUIET,
    Named,
    asked,
    option,
    require,
    serving,
    with_options,
)
from upscale.cli.progress import Reporter
from upscale.cli.upscale import command as upscaling
from upscale.cli.upscale.account import known
from upscale.document import counted
from upscale.errors import UsageError
from upscale.pipeline.request import Setup

MOST_PIXELS = 50_000_000  # of a picture and of a result: browsers get slow above it

_OPTIONS = [
    option("-o", "--output", metavar="DIR", type=ANY_PATH, default=".", group="Files",
           help="Folder that results are saved in."),
    *asked(Setup, "method", type=ONE_METHOD),
    *asked(Setup, "weights"),
    *asked(Setup, "device", "dtype", "compile"),
    *asked(Files, "format", type=Named(upscaling.FORMATS)),
    *asked(Files, "quality", "strip", "frames", "allow_truncated"),
    *asked(Files, "max_pixels", default=MOST_PIXELS,
           help="Refuse inputs and results with more pixels."),
    *serving(8009, "The link that is printed is always needed."),
    *asked(Setup, "offline"),
    QUIET,
    DEBUG,
]  # fmt: skip


@click.command(
    name="ui",
    cls=Command,
    examples=[
        ("diffsr ui", "opens the browser; results are saved in this folder"),
        ("diffsr ui -o large", "in another folder"),
        ("diffsr ui --host 0.0.0.0", "for a phone in the same network, with the printed link"),
    ],
)
@with_options(_OPTIONS)
def command(output: str, host: str, port: int, tunnel: str | None, **options: Any) -> int:
    """Enlarge pictures on a page in the browser, and look at them before and after.

    Drop pictures there, choose how they are enlarged, and save the results that you like. The link
    goes to standard output; Ctrl-C ends it.
    """
    require("ui", "starlette", "uvicorn")
    from upscale.ui.pictures import Pictures
    from upscale.ui.server import application
    from upscale.ui.wishes import Wish
    from upscale.web import listener

    setup, files = (upscaling.record(kind, options) for kind in (Setup, Files))
    wish, access = Wish(setup, files=files), secrets.token_urlsafe(24)
    door = listener.door(host, tunnel, access)
    saved = _prepared(output)
    folder = Path(tempfile.mkdtemp(prefix="diffsr-ui-"))
    with Reporter(quiet=options["quiet"]) as reporter:

        def ready(link: str) -> None:
            reporter.note("Open this link in a browser; Ctrl-C ends the page.")
            reporter.result(link)
            if not options["no_browser"]:
                listener.show(link)

        pictures = Pictures(
            folder,
            saved,
            lambda one: upscaling.make_upscaler(one, False, reporter.fetching),
            lambda error: known(error, options),
            reporter.note,
        )
        # cookies know no port: two pages at once differ, also where any free one is taken
        cookie = f"diffsr_ui_{port or secrets.token_hex(4)}"
        app = application(pictures, wish, **door._asdict(), cookie=cookie, say=reporter.note)
        try:
            with suppress(KeyboardInterrupt):  # the way a server ends
                listener.serve(app, host, port, access=access, tunnel=tunnel, ready=ready)
        finally:
            pictures.close()
            if left := pictures.unsaved():
                reporter.note(f"{counted(left, 'result')} not saved; look in {folder}")
            else:
                shutil.rmtree(folder, ignore_errors=True)
    return 0


def _prepared(output: str) -> Path:
    """The folder that results are saved in, which is there. Raises UsageError, OutputError."""
    if output == STDOUT or is_url(output):
        raise UsageError(f"-o {output}: results are saved in a folder of this machine; name one")
    prepare(output, many=True)
    return Path(output).absolute()
