"""What one subject may do, and in which order: begin, see a pair, answer, go on.

All of it is decided here and in the database, nothing in the page: a trial is answered by its own
subject, from the one tab that holds it, after it was shown for its time, and once.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Any

from upscale.humaneval.design import LR, QUESTIONS
from upscale.humaneval.store import Store

SLACK = 0.1  # seconds by which the server's clock may see a display shorter than it was
MOST_BEGUN = 10  # times as many subjects as asked for may begin; the rest never comes back
_LONGEST_MS = 86_400_000.0
_MOST_ZOOM = 10_000


class Refusal(Exception):
    """A request that is not carried out. code: for the page; status: HTTP's."""

    def __init__(self, status: int, code: str, why: str) -> None:
        super().__init__(why)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Sessions:
    """The subjects of a study."""

    store: Store
    # (subject, position) -> when its display began: the clock of the day may be set meanwhile
    _began: dict[tuple[int, int], float] = field(default_factory=dict)

    # --- who --------------------------------------------------------------------------------

    def subject(self, key: str | None) -> int | None:
        """The subject whose cookie this is."""
        if not key:
            return None
        row = self.store.row("SELECT id FROM subject WHERE key_hash = ?", _hash(key))
        return None if row is None else row["id"]

    def enrol(self) -> tuple[int, str]:
        """(subject, key): the next plan is given to somebody new. Refused when all is done."""
        key = secrets.token_urlsafe(24)
        with self.store.change() as db:
            if self.full():
                raise Refusal(403, "full", "the study has all its subjects")
            free = self.store.row("SELECT min(id) FROM subject WHERE key_hash IS NULL")[0]
            if free is None:  # some began and did not finish
                free = self.store.row("SELECT count(*) FROM subject")[0]
                self.store.plan([free])
            db.execute(
                "UPDATE subject SET key_hash = ?, enrolled = ? WHERE id = ?",
                (_hash(key), self.store.clock(), free),
            )
        return free, key

    def full(self) -> bool:
        counts, wanted = self.store.counts(), self.store.meta["subjects"]
        return counts["finished"] >= wanted or counts["enrolled"] >= MOST_BEGUN * wanted

    def claim(self, subject: int) -> str:
        """Make this tab the only one that may continue the subject's trials."""
        tab = secrets.token_urlsafe(12)
        with self.store.change() as db:
            db.execute("UPDATE subject SET tab = ? WHERE id = ?", (tab, subject))
        return tab

    # --- what comes next --------------------------------------------------------------------

    def state(self, subject: int) -> dict[str, Any]:
        """For the page: the trial to be judged, and the pictures of the one after it."""
        trials = self._next(subject)
        total, done, task = self.store.row(
            "SELECT count(*), (SELECT count(*) FROM answer WHERE subject = ?1), min(task)"
            " FROM trial WHERE subject = ?1",
            subject,
        )
        state = {
            "subject": label(subject),
            "done": done,
            "total": total,
            "task": task,
            "question": QUESTIONS[task],
            "phase": "trial" if trials else "done",
        }
        if trials:
            trial = trials[0]
            state["trial"] = {
                "id": self.trial_id(trial),
                "kind": trial["kind"],
                "shown": trial["shown_ms"] is not None,
                "pictures": self._pictures(trial),
            }
            state["next"] = [p for later in trials[1:] for p in self._pictures(later)]
        return state

    def picture(self, subject: int, name: str) -> str:
        """The file behind a name that was given to this subject for this trial or the next."""
        for trial in self._next(subject):
            for place, role in _places(trial):
                if hmac.compare_digest(self._name(trial, place).encode(), name.encode()):
                    if trial["shown_ms"] is not None:
                        raise Refusal(403, "seen", "the time of this picture is over")
                    return self.store.row(
                        "SELECT file FROM image WHERE picture = ? AND role = ?",
                        trial["picture"],
                        role,
                    )["file"]
        raise Refusal(404, "unknown", "no picture of this name is due")

    # --- the three steps of a trial -----------------------------------------------------------

    def begin(self, subject: int, tab: str, trial: str) -> None:
        """The pictures are about to appear."""
        with self.store.change() as db:
            row = self._current(subject, tab, trial)
            if row["shown_ms"] is not None:
                raise Refusal(409, "seen", "this pair was shown already")
            db.execute(
                "UPDATE trial SET views = views + 1, began = ? WHERE subject = ? AND position = ?",
                (self.store.clock(), subject, row["position"]),
            )
        self._began[subject, row["position"]] = self.store.steady()

    def shown(
        self,
        subject: int,
        tab: str,
        trial: str,
        shown_ms: float,
        frame_ms: float,
        presented_ms: float | None = None,
        zoom: int | None = None,
    ) -> None:
        """The pictures are gone again, after their time."""
        times = [_milliseconds(value) for value in (shown_ms, frame_ms, presented_ms)]
        if times[0] is None or times[1] is None:
            raise Refusal(400, "form", "shown_ms and frame_ms are numbers")
        if zoom is not None and (type(zoom) is not int or not 1 <= zoom <= _MOST_ZOOM):
            raise Refusal(400, "form", f"zoom is a whole number from 1 to {_MOST_ZOOM}")
        with self.store.change() as db:
            row = self._current(subject, tab, trial)
            if row["began"] is None:
                raise Refusal(403, "unserved", "this pair was not shown")
            if row["shown_ms"] is not None:
                raise Refusal(409, "seen", "this pair was shown already")
            if (began := self._began.get((subject, row["position"]))) is not None:
                passed = self.store.steady() - began
            else:  # another server, or this one before it was started anew
                passed = self.store.clock() - row["began"]
            if passed < self.store.meta["seconds"] - SLACK:
                raise Refusal(403, "early", "this pair was not shown for its time")
            db.execute(
                "UPDATE trial SET shown_ms = ?, frame_ms = ?, presented_ms = ?, zoom = ?"
                " WHERE subject = ? AND position = ?",
                (*times, zoom, subject, row["position"]),
            )
        self._began.pop((subject, row["position"]), None)

    def answer(
        self, subject: int, tab: str, trial: str, side: str, rt_ms: float | None = None
    ) -> None:
        """The subject chose; it is on disk when this returns."""
        if side not in ("left", "right"):
            raise Refusal(400, "form", "side is left or right")
        rt_ms = _milliseconds(rt_ms)
        with self.store.change() as db:
            row = self._current(subject, tab, trial)
            if row["shown_ms"] is None:
                raise Refusal(403, "unserved", "this pair was not shown")
            now = self.store.clock()
            db.execute(
                "INSERT INTO answer VALUES (?, ?, ?, ?, ?)",
                (subject, row["position"], side, rt_ms, now),
            )
            if len(self._next(subject)) == 0:
                db.execute("UPDATE subject SET finished = ? WHERE id = ?", (now, subject))

    # --- inside -------------------------------------------------------------------------------

    def _next(self, subject: int) -> list[Any]:
        """The first two trials without an answer."""
        return self.store.db.execute(
            "SELECT t.* FROM trial t LEFT JOIN answer a USING (subject, position)"
            " WHERE t.subject = ? AND a.side IS NULL ORDER BY position LIMIT 2",
            (subject,),
        ).fetchall()

    def _current(self, subject: int, tab: str, trial: str) -> Any:
        """The trial, if it is the one that this subject has to judge in this tab."""
        row = self.store.row("SELECT tab FROM subject WHERE id = ?", subject)
        if row["tab"] is None or not hmac.compare_digest(row["tab"].encode(), tab.encode()):
            raise Refusal(409, "tab", "the study continues in another tab")
        due = self._next(subject)
        if due and hmac.compare_digest(self.trial_id(due[0]).encode(), trial.encode()):
            return due[0]
        answered = self.store.db.execute(
            "SELECT t.* FROM trial t JOIN answer USING (subject, position) WHERE t.subject = ?",
            (subject,),
        )
        if any(self.trial_id(row) == trial for row in answered):
            raise Refusal(409, "answered", "this pair has its answer")
        raise Refusal(403, "unserved", "this pair is not the one that is due")

    def trial_id(self, trial: Any) -> str:
        """What the page calls a trial."""
        return self._name(trial, "trial")

    def _name(self, trial: Any, place: str) -> str:
        """What only the server can make: 128 bits that tell neither role nor picture."""
        secret = bytes.fromhex(self.store.meta["secret"])
        text = f"{trial['subject']}/{trial['position']}/{place}".encode()
        return hmac.new(secret, text, hashlib.sha256).hexdigest()[:32]

    def _pictures(self, trial: Any) -> list[dict[str, Any]]:
        """Left, (low resolution,) right: as they stand on the screen."""
        listed = []
        for place, role in _places(trial):
            size = self.store.row(
                "SELECT height, width FROM image WHERE picture = ? AND role = ?",
                trial["picture"],
                role,
            )
            name = self._name(trial, place)
            listed.append({"place": place, "url": f"/picture/{name}", **dict(size)})
        return listed


def label(subject: int) -> str:
    """What a subject is called in page and report: no more than a number."""
    return f"S{subject + 1:03d}"


def _places(trial: Any) -> list[tuple[str, str]]:
    middle = [("middle", LR)] if trial["task"] == 1 else []
    return [("left", trial["left_role"]), *middle, ("right", trial["right_role"])]


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _milliseconds(value: Any) -> float | None:
    """A time from the page. Refused where it is none."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Refusal(400, "form", "a time is a number of milliseconds")
    if not 0 <= value <= _LONGEST_MS:  # nan is neither
        raise Refusal(400, "form", "a time is between 0 and a day")
    return float(value)
