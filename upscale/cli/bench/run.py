"""What `diffsr bench` does once its options are known: measure, compare, write."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from upscale import atomic, document
from upscale.bench.columns import METRICS
from upscale.cli.options import path_of, some
from upscale.cli.progress import Reporter
from upscale.errors import UsageError

Texts = Mapping[str, Callable[[], str]]  # by their kind: json, csv, markdown, html


def run_bench(
    options: dict[str, Any], reporter: Reporter, shown: dict[int, Any] | None
) -> list[dict[str, Any]]:
    """The rows, one for every picture and combination; tests put a fake here."""
    reporter.begin("measuring")  # torch alone takes seconds to load
    reporter.line("measuring")
    from upscale.bench import testsets
    from upscale.bench.cache import Cache
    from upscale.bench.run import run
    from upscale.bench.score import default_metrics
    from upscale.bench.trials import BenchSettings
    from upscale.weights.store import find as entry_of
    from upscale.weights.store import locate

    name, folder = testsets.find(options["dataset"], path_of(options["data"]))
    options["dataset_name"] = name
    metrics = options["metrics"]
    if metrics is None:
        metrics = default_metrics(options["samples"])
        if "lpips_vgg" not in metrics:
            reporter.note(
                "LPIPS (vgg) is left out, and a method may please one network only: "
                "DIFFSR_LPIPS_VGG names the file with its weights"
            )
    settings = BenchSettings(
        methods=options["method"],
        scales=options["scale"],
        steps=options["steps"] or (None,),
        samplers=options["sampler"] or (None,),
        presets=options["preset"] or (None,),
        temperatures=options["temperature"] or (None,),
        denoises=options["denoise"] or (None,),
        parametrisations=options["parametrisation"] or (None,),
        metrics=metrics,
        weights=options["weights"] or (),
        outputs=options["outputs"],
        **some(options, "degradation", "domain", "spacing", "consistency", "one_stage", "limit"),
        **some(options, "seed", "samples", "device", "dtype", "offline", "crop"),
    )
    if "lpips" in metrics:  # a package without weights fetches them now, as it does networks
        locate(entry_of("lpips-alex"), options["offline"], reporter.fetching)
    try:
        return run(
            folder,
            settings,
            name=name,
            save=path_of(options["save"]),
            cache=Cache(None if options["no_cache"] else _cache_folder(options["cache"])),
            shown=shown,
            say=reporter.note,
            on_row=lambda row, done, total: tell_row(row, done, total, reporter),
        )
    except KeyboardInterrupt as end:
        kept = "" if options["no_cache"] else " What is measured is kept: the same command goes on."
        raise type(end)(f"Interrupted.{kept}") from None
    finally:
        reporter.end()


def _cache_folder(wish: str | None) -> Path:
    """`wish`, else what the system has for such things."""
    if wish:
        return Path(wish)
    if sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "diffsr" / "bench"


def tell_row(row: dict[str, Any], done: int, total: int, reporter: Reporter) -> None:
    reporter.step(done, total)
    numbers = ", ".join(f"{k} {v:.4g}" for k, v in row.items() if k in METRICS and v is not None)
    reporter.line(f"{done}/{total} {row.get('picture', '')} {row.get('method', '')}: {numbers}")


def parts_of(rows: list[dict[str, Any]], options: dict[str, Any]) -> list[Any]:
    """The report and the published tables that were asked for, as `report.parts`."""
    from upscale.bench import published, report

    named = "none" if options["published"] == "auto" else options["published"]
    more = published.parts(published.choose(named, "", ()))
    return [*report.parts(rows, options["verbose"]), *more]


def texts_of(
    rows: list[dict[str, Any]], shown: dict[int, Any], options: dict[str, Any]
) -> dict[str, Callable[[], str]]:
    """The report, by its kind."""
    from upscale.bench import compare, published, report

    def json() -> str:
        changes = compare.flat(compare.against_first(rows))
        return document.to_json({"rows": rows, "differences": changes})

    def html() -> str:
        from upscale.bench import page

        chosen = published.choose(options["published"], options["dataset_name"], options["scale"])
        return page.to_html(rows, shown, chosen, options["dataset_name"])

    return {
        "json": json,
        "csv": lambda: document.to_csv(rows),
        "markdown": lambda: report.markdown_of(parts_of(rows, options)),
        "screen": lambda: report.markdown_of(parts_of(rows, options), report.WIDTH),
        "html": html,
    }


def compare_runs(options: dict[str, Any], targets: dict[str, str]) -> int:
    from upscale.bench import compare

    if set(targets) - {"json", "markdown"}:
        raise UsageError("--compare writes --json and --markdown only")
    runs = (compare.read_rows(Path(path)) for path in options["compare"])
    rows, notes = compare.compare(*runs, trials=options["trials"])
    texts = {
        "json": lambda: document.to_json({"rows": compare.flat(rows), "notes": notes}),
        "markdown": lambda: compare.to_markdown(rows, notes),
    }
    with Reporter(quiet=options["quiet"]) as reporter:
        deliver(texts, targets, reporter)
    return 0


def compare_sets(options: dict[str, Any], targets: dict[str, str]) -> int:
    """`--unpaired`: FID of each folder of made pictures against the real ones."""
    from upscale.bench import testsets, unpaired

    if "html" in targets:
        raise UsageError("--unpaired writes --json, --csv and --markdown only")
    name, folder = testsets.find(options["dataset"], path_of(options["data"]))
    with Reporter(quiet=options["quiet"]) as reporter:
        reporter.begin("measuring")
        rows = unpaired.run(
            folder,
            options["outputs"],
            name=name,
            say=reporter.note,
            on_picture=lambda name, done, total: reporter.step(done, total),
            **some(options, "device", "limit"),
        )
        reporter.end()
        texts = {
            "json": lambda: document.to_json(rows),
            "csv": lambda: document.to_csv(rows),
            "markdown": lambda: unpaired.to_markdown(rows),
        }
        deliver(texts, targets, reporter)
    return 0


def deliver(
    texts: Texts,
    targets: dict[str, str],
    reporter: Reporter,
    show: Callable[[], None] | None = None,
) -> None:
    """Write the texts that are wanted; a free standard output gets show(), or the text for a screen
    or the Markdown."""
    for kind, target in targets.items():
        put(texts[kind](), target, reporter)
    if "-" not in targets.values():
        show() if show else _echo(texts.get("screen", texts["markdown"])())


def put(text: str, target: str, reporter: Reporter) -> None:
    text = text.rstrip("\n") + "\n"
    if target == "-":
        _echo(text)
        return
    atomic.write_text(Path(target), text)
    reporter.note(f"wrote {target}")


def _echo(text: str) -> None:
    """To standard output, as `atomic.write_text` writes it to a file."""
    click.echo(text.encode(errors="backslashreplace"), nl=False)
