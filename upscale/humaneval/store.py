"""A study on disk: its plan, its subjects and their answers, in one SQLite file.

Every change is one transaction, on disk before the caller hears of it, so that a killed server
loses at most what it had not answered yet. The primary keys refuse a second answer.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from upscale.errors import InputError
from upscale.humaneval.design import Design, Planner, Trial

DATABASE, PICTURES = "study.db", "pictures"
VERSION = 2
Failure = sqlite3.OperationalError  # the disk is full, or the file locked: nothing was stored
MOST_REFUSALS = 10_000  # that are kept: a flood must not fill the disk


class Store:
    """The tables behind names. clock: seconds since 1970. steady: seconds that nobody sets."""

    def __init__(
        self,
        db: sqlite3.Connection,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.db, self.clock, self.steady = db, clock, steady
        db.row_factory = sqlite3.Row
        db.isolation_level = None  # transactions are named below
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA synchronous = FULL")  # an answer outlives a power cut
        db.execute("PRAGMA busy_timeout = 10000")

    @cached_property
    def meta(self) -> dict[str, Any]:
        """What was fixed when the study was built; read once."""
        rows = self.db.execute("SELECT key, value FROM meta")
        return {row["key"]: json.loads(row["value"]) for row in rows}

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """One transaction, begun at once so that two servers queue instead of failing."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield self.db
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    def row(self, sql: str, *values: Any) -> sqlite3.Row | None:
        return self.db.execute(sql, values).fetchone()

    def close(self) -> None:
        self.db.close()

    # --- the plan ---------------------------------------------------------------------------

    def design(self) -> Design:
        meta = self.meta
        (count,) = self.row("SELECT count(*) FROM picture")
        pairs = tuple((first, second) for first, second in meta["conditions"])
        kept = {name: meta[name] for name in ("images", "checks", "practice", "seed")}
        return Design(count, pairs, tuple(meta["tasks"]), **kept)

    def plan(self, slots: Iterable[int]) -> None:
        """Write the trials of new subjects. Not a transaction of its own."""
        past = (
            Trial(*row)
            for row in self.db.execute(
                "SELECT position, kind, task, picture, left_role, right_role FROM trial"
            )
        )
        planner = Planner(self.design(), past)
        for slot in slots:
            self.db.execute("INSERT INTO subject (id) VALUES (?)", (slot,))
            self.db.executemany(
                "INSERT INTO trial (subject, position, kind, task, picture, left_role, right_role)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (slot, t.position, t.kind, t.task, t.picture, t.left, t.right)
                    for t in planner.subject(slot)
                ],
            )

    # --- counting ---------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """How many subjects began, how many finished, and how many answers there are."""
        enrolled, finished = self.row("SELECT count(key_hash), count(finished) FROM subject")
        (answers,) = self.row("SELECT count(*) FROM answer")
        return {"enrolled": enrolled, "finished": finished, "answers": answers}

    def answers(self) -> list[dict[str, Any]]:
        """Every answered trial, in order, with all that is known of it."""
        rows = self.db.execute(
            "SELECT t.*, p.name, a.side, a.rt_ms, a.at, s.finished FROM answer a"
            " JOIN trial t USING (subject, position) JOIN picture p ON p.id = t.picture"
            " JOIN subject s ON s.id = t.subject ORDER BY t.subject, t.position"
        )
        return [dict(row) for row in rows]

    def files(self) -> dict[tuple[int, str], str]:
        """(picture, role) -> file in the folder of pictures."""
        rows = self.db.execute("SELECT picture, role, file FROM image")
        return {(row["picture"], row["role"]): row["file"] for row in rows}

    def free(self, seconds: float) -> int:
        """Give back the places of those who enrolled so many seconds ago or more and never saw a
        pair; returns how many."""
        with self.change() as db:
            return db.execute(
                "UPDATE subject SET key_hash = NULL, tab = NULL, enrolled = NULL"
                " WHERE enrolled <= ? AND id NOT IN (SELECT subject FROM trial WHERE views > 0)",
                (self.clock() - seconds,),
            ).rowcount

    def begun(self, subject: int) -> bool:
        """Whether a subject has seen a pair."""
        return self.row("SELECT max(views) FROM trial WHERE subject = ?", subject)[0] > 0

    def refuse(self, what: str) -> None:
        """Note a request that was refused."""
        with self.change() as db:
            db.execute(
                "INSERT INTO refused (at, what) SELECT ?, ?"
                " WHERE (SELECT count(*) FROM refused) < ?",
                (self.clock(), what[:300], MOST_REFUSALS),
            )


def create(path: Path | str, meta: dict[str, Any]) -> Store:
    """A new study without pictures."""
    if str(path) != ":memory:":  # its secrets and answers are nobody else's
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    store = Store(sqlite3.connect(path))
    store.db.execute("PRAGMA journal_mode = WAL")
    store.db.executescript(files("upscale.humaneval").joinpath("schema.sql").read_text("utf-8"))
    with store.change() as db:
        fixed = {**meta, "version": VERSION}
        db.executemany(
            "INSERT INTO meta VALUES (?, ?)", [(k, json.dumps(v)) for k, v in fixed.items()]
        )
    return store


def open_study(folder: Path) -> Store:
    """The study in `folder`; InputError where there is none that this version reads."""
    path = folder / DATABASE
    if not path.is_file():
        raise InputError(f"{folder}: no study here; make one: diffsr humaneval build -o {folder}")
    try:
        # one thread at a time uses it: the server's event loop, wherever a test runs that
        db = sqlite3.connect(path, check_same_thread=False)
        store = Store(db)
        if store.row("PRAGMA quick_check(1)")[0] != "ok":
            raise sqlite3.DatabaseError("it is damaged; go on with a copy from before")
        version = store.meta.get("version")
    except sqlite3.DatabaseError as error:
        advice = "; copy the study to a folder that can be written to"  # SQLite has files beside it
        shut = "" if os.access(folder, os.W_OK) else advice
        raise InputError(f"{path}: cannot be read as a study: {error}{shut}") from error
    if version != VERSION:
        store.close()
        raise InputError(f"{path}: a study of version {version}; this diffsr reads {VERSION}")
    return store


def blank(store: Store, clock: Callable[[], float] = time.time) -> Store:
    """A copy in memory in which nobody has taken part yet."""
    copy = in_memory(store, clock)
    with copy.change() as db:
        db.execute("DELETE FROM answer")
        db.execute("DELETE FROM trial WHERE subject >= ?", (copy.meta["subjects"],))
        db.execute("DELETE FROM subject WHERE id >= ?", (copy.meta["subjects"],))
        db.execute("UPDATE subject SET key_hash = NULL, tab = NULL, finished = NULL")
        db.execute("UPDATE trial SET views = 0, began = NULL, shown_ms = NULL")
    return copy


def preview(store: Store) -> Store:
    """A blank copy of which each subject has two pairs of a kind, to be walked through."""
    copy = blank(store)
    copy.meta["title"] = f"Preview, nothing is stored: {store.meta['title']}"
    copy.meta["study"] = f"{store.meta['study']}p"  # a browser's place in the study stays its own
    copy.meta |= {kind: min(2, store.meta[kind]) for kind in ("images", "checks", "practice")}
    with copy.change() as db:
        db.execute(
            "DELETE FROM trial WHERE (subject, position) NOT IN (SELECT subject, position FROM"
            " (SELECT *, row_number() OVER (PARTITION BY subject, kind ORDER BY position) AS nth"
            " FROM trial) WHERE nth <= 2)"
        )
    return copy


def in_memory(store: Store, clock: Callable[[], float] = time.time) -> Store:
    """A copy that touches no file."""
    copy = sqlite3.connect(":memory:", check_same_thread=False)
    store.db.backup(copy)
    return Store(copy, clock, time.monotonic if clock is time.time else clock)
