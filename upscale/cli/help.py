"""Help pages: options in named groups; --help shows the common ones, --help-all all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from upscale.cli import environment

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
GENERAL = "General"  # the last group, with --help
SHORT = 18  # a command with no more options than this shows all of them
COLUMN = 28  # the texts begin here at the latest


class Option(click.Option):
    """An option that belongs to a group of the help page.

    group: the section's title. expert: shown by --help-all only. Range and default follow the help
    text in brackets; `show_default` may be a text where the default is only known later.
    """

    def __init__(self, *names: Any, group: str = "Options", expert: bool = False, **settings: Any):
        super().__init__(*names, **settings)
        self.group, self.expert = group, expert

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        if record is None:
            return None
        notes = [note for note in (_range(self.type), self._default()) if note]
        text = (self.help or "").strip()
        return record[0], f"{text} [{'; '.join(notes)}]".strip() if notes else text

    def _default(self) -> str:
        if isinstance(self.show_default, str):
            return f"default: {self.show_default}"
        if not self.show_default or self.default in (None, ""):
            return ""
        shown = f"{self.default:g}" if isinstance(self.default, float) else str(self.default)
        return f"default: {shown}"

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        return environment.value_of(self, ctx.auto_envvar_prefix)


class Command(click.Command):
    """A command whose help page has examples and groups. examples: (command, its effect)."""

    def __init__(self, *args: Any, examples: Sequence[tuple[str, str]] = (), **settings: Any):
        super().__init__(*args, **{"context_settings": CONTEXT, **settings})
        self.examples = examples
        self.long = sum(isinstance(p, Option) for p in self.params) > SHORT

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        params = super().get_params(ctx)
        return [*params, _HELP_ALL] if self.long else params

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        format_examples(self.examples, formatter)
        self.format_options(ctx, formatter)
        self.format_epilog(ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        every = not self.long or ctx.meta.get(__name__, False)
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record and (every or not getattr(param, "expert", False)):
                groups.setdefault(getattr(param, "group", GENERAL), []).append(record)
        if general := groups.pop(GENERAL, None):
            groups[GENERAL] = general
        width = {title: max(len(names) for names, _ in rows) for title, rows in groups.items()}
        column = min(max(width.values()), COLUMN)  # the same in every section
        for title, rows in groups.items():
            with formatter.section(title):
                formatter.write_dl(rows, COLUMN, column + 2 - min(width[title], COLUMN))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [p for p in self.params if isinstance(p, Option)]
        if self.long and not ctx.meta.get(__name__):
            shown = sum(not option.expert for option in options)
            formatter.write_paragraph()
            formatter.write_text(
                f"These are the {shown} common options; --help-all shows all {len(options)}."
            )
        elif options:
            formatter.write_paragraph()
        if options:
            formatter.write_text(_environment(ctx, options))
        super().format_epilog(ctx, formatter)


class Group(click.Group):
    """A command with commands below it, each of which is a `Command`."""

    command_class = Command

    def __init__(self, *args: Any, examples: Sequence[tuple[str, str]] = (), **settings: Any):
        super().__init__(*args, **{"context_settings": CONTEXT, **settings})
        self.examples = examples

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        format_examples(self.examples, formatter)
        super().format_options(ctx, formatter)


def _environment(ctx: click.Context, options: Sequence[Option]) -> str:
    """How options are set by variables."""
    words = [environment.word_of(option) for option in options]
    own, example = ctx.auto_envvar_prefix, next(w for w in words if w not in environment.SHARED)
    shared = [word for word in environment.SHARED if word in words]
    every = (
        f" For all commands: DIFFSR_{shared[0].upper()} ({', '.join(shared)})." if shared else ""
    )
    return (
        f"An environment variable sets an option, too: {own}_{example.upper()}.{every} The command "
        "line overrides it."
    )


def format_examples(examples: Sequence[tuple[str, str]], formatter: click.HelpFormatter) -> None:
    """Write a section of commands and what each does."""
    if examples:
        with formatter.section("Examples"):
            formatter.write_dl(examples, col_max=100)


def _range(kind: click.ParamType) -> str:
    """The bounds of a number in words; "" for none, and for counts that are merely not negative."""
    low, high = getattr(kind, "min", None), getattr(kind, "max", None)
    if low is None:
        return ""
    if high is not None and high < 1e9:
        return f"{low:g} to {high:g}"
    if kind.min_open:
        return f"above {low:g}"
    return "" if low == 0 or (isinstance(kind, click.IntRange) and low == 1) else f"{low:g} or more"


def _show_all(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[__name__] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


_HELP_ALL = Option(
    ["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=_show_all,
    help="Show every option and exit.", group=GENERAL,
)  # fmt: skip
