"""`diffsr humaneval`: make, run and evaluate a study of which pictures people take for real."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from upscale.cli.help import Group
from upscale.cli.humaneval.build import build
from upscale.cli.options import (
    ANY_PATH,
    DEBUG,
    QUIET,
    Finite,
    option,
    require,
    serving,
    with_options,
)
from upscale.cli.progress import Reporter
from upscale.document import counted
from upscale.errors import DiffsrError, UsageError

STUDY = click.argument("study", type=ANY_PATH, metavar="STUDY")


@click.group(
    name="humaneval",
    cls=Group,
    examples=[
        ("diffsr humaneval build --hr photos --method sr3,ecdp -o study", "make a study"),
        ("diffsr humaneval serve study", "run it"),
        ("diffsr humaneval report study", "fool rates"),
    ],
)
def command() -> None:
    """Ask people which of two pictures is real, as in SR3's human evaluation (2AFC)."""


command.add_command(build)


_SERVE = [
    *serving(8008, "Unless it is a loopback address, subjects need the link that is printed."),
    option("--preview", is_flag=True,
        help="Walk through a copy with two pairs of each kind; nothing is stored."),
    QUIET,
    DEBUG,
]  # fmt: skip


@command.command(
    examples=[
        ("diffsr humaneval serve study --preview", "to look at it"),
        ("diffsr humaneval serve study", "on this machine"),
        ("diffsr humaneval serve study --host 0.0.0.0", "in the network"),
        ("diffsr humaneval serve study --tunnel https://study.example", "behind a proxy"),
    ],
)
@STUDY
@with_options(_SERVE)
def serve(study: str, host: str, port: int, tunnel: str | None, **options: Any) -> int:
    """Run the study in STUDY as a web page, until Ctrl-C.

    The link goes to standard output. Each answer is on disk before the next page is shown, so the
    server may be stopped or killed and started again at any time.
    """
    require("humaneval", "starlette", "uvicorn", "scipy")
    from upscale.humaneval.server import serve as run
    from upscale.humaneval.store import open_study, preview
    from upscale.web.listener import show

    with Reporter(quiet=options["quiet"]) as reporter:
        store = open_study(Path(study))
        if options["preview"]:
            disk, store = store, preview(store)
            disk.close()
        counts, meta = store.counts(), store.meta
        reporter.note(
            f"{meta['title']} {counts['finished']} of {counted(meta['subjects'], 'subject')} "
            f"finished, {counted(counts['answers'], 'answer')}. Ctrl-C stops."
        )

        def ready(link: str) -> None:
            reporter.result(link)
            if not options["no_browser"]:
                show(link)

        with suppress(KeyboardInterrupt):  # the way a server ends: nothing is interrupted
            run(store, Path(study), host, port, tunnel=tunnel, say=reporter.note, ready=ready)
        where = "thrown away" if options["preview"] else f"in {study}"
        reporter.note(f"Stopped with {counted(store.counts()['answers'], 'answer')} {where}")
        store.close()
    return 0


_FREE = [
    option("--minutes", type=Finite(0), default=60.0, metavar="N",
        help="How long ago they must have enrolled."),
    QUIET,
    DEBUG,
]  # fmt: skip


@command.command(
    short_help="Give back the places that nobody took up.",
    examples=[("diffsr humaneval free study", "give back places that nobody took up")],
)
@STUDY
@with_options(_FREE)
def free(study: str, minutes: float, **options: Any) -> int:
    """Give back the places in STUDY of those who enrolled and never saw a pair.

    The study may be running. Who comes back later enrols anew.
    """
    from upscale.humaneval.store import open_study

    with Reporter(quiet=options["quiet"]) as reporter:
        store = open_study(Path(study))
        found = store.free(60 * minutes)
        reporter.note(f"{counted(found, 'place')} {'is' if found == 1 else 'are'} free again")
        store.close()
    return 0


_REPORT = [
    option("-o", "--output", metavar="DIR", type=ANY_PATH, show_default="STUDY/report",
        help="Folder for the report."),
    option("--max-failed", type=click.IntRange(0), default=1, metavar="N",
        help="Number of attention checks that a subject may fail."),
    option("--min-rt", type=Finite(0, 60_000), default=200.0, metavar="MS",
        help="Ignore answers that took less time."),
    option("--complete-only", is_flag=True, help="Ignore subjects who did not finish."),
    option("--keep-interrupted", is_flag=True, help="Count pairs that were shown more than once."),
    option("--top", type=click.IntRange(0, 50), default=3, metavar="N",
        help="Number of best and worst pictures to show."),
    option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, metavar="N",
        help="Seed of the bootstrap and of simulated subjects."),
    option("--simulate", metavar="RATE[,NAME=RATE...]",
        help="Evaluate simulated subjects with these true fool rates instead of the answers."),
    option("--studies", type=click.IntRange(1, 100_000), default=1, metavar="N",
        help="With --simulate: number of studies. Above 1, reports the coverage of the intervals."),
    QUIET,
    DEBUG,
]  # fmt: skip


@command.command(
    examples=[
        ("diffsr humaneval report study", "rates, and study/report"),
        ("diffsr humaneval report study --complete-only", "of subjects who finished"),
        ("diffsr humaneval report study --simulate 0.4", "what drawn subjects would give"),
    ],
)
@STUDY
@with_options(_REPORT)
def report(study: str, output: str | None, **options: Any) -> int:
    """Report the fool rates of the study in STUDY, with 95% intervals.

    Writes report.html, report.json and CSV files. The table of rates goes to standard output.
    """
    require("humaneval", "scipy", "matplotlib")
    from upscale.humaneval import analysis, simulate
    from upscale.humaneval import report as reports
    from upscale.humaneval.store import open_study

    rules = analysis.Rules(
        **{k: options[k] for k in ("max_failed", "min_rt", "complete_only", "keep_interrupted")}
    )
    if options["studies"] > 1 and not options["simulate"]:
        raise UsageError("--studies belongs to --simulate")
    with Reporter(quiet=options["quiet"]) as reporter:
        store = open_study(Path(study))
        if options["simulate"]:
            bias = simulate.Bias(
                simulate.rates_of(options["simulate"], store), seed=options["seed"]
            )
            if options["studies"] > 1:
                return _coverage(store, bias, options["studies"], reporter)
            store = simulate.simulated(store, bias, options["seed"])
        found = analysis.analyse(store, rules, seed=options["seed"])
        found["simulated"] = options["simulate"]
        folder = Path(output or Path(study) / ("simulated" if options["simulate"] else "report"))
        reports.write(found, store, Path(study), folder, top=options["top"])
        click.echo(reports.table(found), nl=False)
        for line in [*found["missing"], *found["exclusions"]["said"]]:
            reporter.note(line)
        reporter.note(f"wrote {folder / 'report.html'}")
    return 0


def _coverage(store: Any, bias: Any, studies: int, reporter: Reporter) -> int:
    from upscale.humaneval import report as reports
    from upscale.humaneval import simulate

    reporter.begin("simulating")
    try:
        rows = simulate.coverage(store, bias, studies, on_study=reporter.step)
    finally:
        reporter.end()
    if not rows:
        raise DiffsrError("no simulated study had answers that count")
    click.echo(reports.coverage_table(rows), nl=False)
    return 0
