"""Every `diffsr` line in the documentation is one that the real parser takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from upscale.cli.main import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(text: str) -> list[str]:
    """The lines of code blocks, joined at a backslash, in which diffsr is called."""
    found = []
    for block in re.findall(r"```(?:sh|bash|shell|console)?\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            if re.match(r"(?:.*[|;&(]\s*)?(?:[A-Z_]+=\S+\s+)*diffsr\s", line):
                found.append(line)
    return found


def arguments(line: str) -> list[list[str]]:
    """The arguments of each call of diffsr in a shell line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, "#"
    calls, current = [], None
    for word in lexer:
        if set(word) <= set("|&;()<>"):
            calls += [current] if current is not None else []
            current = None
        elif word == "diffsr":
            current = []
        elif current is not None:
            current.append(word)
    return calls + ([current] if current is not None else [])


LINES = [
    (page.name, line) for page in PAGES if page.is_file() for line in commands(page.read_text())
]


@pytest.mark.parametrize(("page", "line"), LINES)
def test_line_parses(page, line, monkeypatch):
    monkeypatch.delenv("DIFFSR_DEBUG", raising=False)
    for args in arguments(line):
        context = cli.make_context("diffsr", list(args), resilient_parsing=False)
        with context:
            _, command, rest = cli.resolve_command(
                context, [*context._protected_args, *context.args]
            )
            try:
                while isinstance(command, click.Group):  # diffsr weights list
                    context = command.make_context(command.name, rest, parent=context)
                    words = [*context._protected_args, *context.args]
                    _, command, rest = command.resolve_command(context, words)
                command.make_context(command.name, rest, parent=context)
            except click.exceptions.Exit as end:  # --help
                assert end.exit_code == 0


def test_lines_are_found():
    text = "```sh\n$ diffsr a.png --scale 2  # twice\ncat b | diffsr - > c\n```\n`diffsr x`"
    assert commands(text) == ["diffsr a.png --scale 2  # twice", "cat b | diffsr - > c"]
    assert [arguments(line) for line in commands(text)] == [[["a.png", "--scale", "2"]], [["-"]]]
