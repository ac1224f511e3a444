"""What a subject may do: the order of things, one tab, one answer; what a study keeps on disk."""

from __future__ import annotations

import json
import sqlite3

import numpy as np
import pytest

pytest.importorskip("scipy")

from humaneval_study import make_study
from PIL import Image

from upscale.errors import InputError, OutputError, UsageError
from upscale.humaneval.build import CONSENT, StudySettings, coarse, plan_of
from upscale.humaneval.session import Refusal, Sessions
from upscale.humaneval.store import DATABASE, PICTURES, in_memory, open_study, preview

pytestmark = pytest.mark.packaged


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("s") / "study")


@pytest.fixture
def sessions(study):
    store = open_study(study)
    yield Sessions(in_memory(store, Clock()))
    store.close()


def refused(status, code, does, *args):
    with pytest.raises(Refusal) as caught:
        does(*args)
    assert (caught.value.status, caught.value.code) == (status, code)


def see(sessions, subject, tab, trial):
    sessions.begin(subject, tab, trial)
    sessions.store.clock.now += 1
    sessions.shown(subject, tab, trial, 50.0, 16.7)


def test_a_subject_s_way(sessions):
    subject, key = sessions.enrol()
    assert sessions.subject(key) == subject == 0
    assert sessions.subject(key + "x") is sessions.subject(None) is None
    tab = sessions.claim(subject)
    for done in range(6):
        state = sessions.state(subject)
        assert (state["phase"], state["done"], state["total"]) == ("trial", done, 6)
        assert state["trial"]["shown"] is False
        assert [p["place"] for p in state["trial"]["pictures"]] == ["left", "middle", "right"]
        assert {(p["height"], p["width"]) for p in state["trial"]["pictures"]} == {(24, 20)}
        assert len(state["next"]) == (3 if done < 5 else 0)
        trial = state["trial"]["id"]
        see(sessions, subject, tab, trial)
        assert sessions.state(subject)["trial"]["shown"] is True
        sessions.answer(subject, tab, trial, "left", 400)
    assert sessions.state(subject)["phase"] == "done"
    assert sessions.store.counts() == {"enrolled": 1, "finished": 1, "answers": 6}
    answers = sessions.store.answers()
    assert [row["position"] for row in answers] == list(range(6))
    assert {row["side"] for row in answers} == {"left"}


def test_task_2_has_no_middle(sessions):
    sessions.enrol()
    subject, _ = sessions.enrol()
    state = sessions.state(subject)
    assert state["question"] == "Which image would you guess is from a camera?"
    assert [p["place"] for p in state["trial"]["pictures"]] == ["left", "right"]


def test_the_order_of_things(sessions):
    subject, _ = sessions.enrol()
    tab = sessions.claim(subject)
    trial = sessions.state(subject)["trial"]["id"]
    refused(403, "unserved", sessions.answer, subject, tab, trial, "left")
    refused(403, "unserved", sessions.shown, subject, tab, trial, 50.0, 16.0)
    sessions.begin(subject, tab, trial)
    sessions.store.db.execute("UPDATE meta SET value = '6' WHERE key = 'seconds'")
    del sessions.store.meta  # read once, and again now
    sessions.store.clock.now += 5.8
    refused(403, "early", sessions.shown, subject, tab, trial, 6000.0, 16.0)
    refused(403, "unserved", sessions.answer, subject, tab, trial, "left")
    sessions.begin(subject, tab, trial)  # a reload: from the start
    sessions.store.clock.now += 5.8
    refused(403, "early", sessions.shown, subject, tab, trial, 6000.0, 16.0)
    sessions.store.clock.now += 0.2
    sessions.shown(subject, tab, trial, 6000.0, 16.0)
    refused(409, "seen", sessions.shown, subject, tab, trial, 6000.0, 16.0)
    refused(409, "seen", sessions.begin, subject, tab, trial)
    sessions.answer(subject, tab, trial, "right", None)
    refused(409, "answered", sessions.answer, subject, tab, trial, "left")
    refused(409, "answered", sessions.begin, subject, tab, trial)
    (row,) = sessions.store.answers()
    assert (row["side"], row["views"], row["rt_ms"]) == ("right", 2, None)


def test_other_trials_and_other_subjects(sessions):
    (first, _), (second, _) = sessions.enrol(), sessions.enrol()
    tab = sessions.claim(first)
    foreign = sessions.state(second)["trial"]["id"]
    for trial in (foreign, "", "é", "0" * 32):
        refused(403, "unserved", sessions.begin, first, tab, trial)
    names = [p["url"].rpartition("/")[2] for p in sessions.state(second)["trial"]["pictures"]]
    assert sessions.picture(second, names[0]).endswith(".png")
    for name in (*names, "x", "../study.db", "é", ""):
        refused(404, "unknown", sessions.picture, first, name)


def test_pictures_end_with_their_time(sessions):
    subject, _ = sessions.enrol()
    tab = sessions.claim(subject)
    state = sessions.state(subject)
    names = [p["url"].rpartition("/")[2] for p in state["trial"]["pictures"] + state["next"]]
    files = [sessions.picture(subject, name) for name in names]
    assert len(set(files)) == len(files) == 6
    assert not set(names) & {file.partition(".")[0] for file in files}
    see(sessions, subject, tab, state["trial"]["id"])
    refused(403, "seen", sessions.picture, subject, names[0])
    sessions.answer(subject, tab, state["trial"]["id"], "left")
    refused(404, "unknown", sessions.picture, subject, names[0])
    assert sessions.picture(subject, names[3]) == files[3]


def test_the_last_tab_goes_on(sessions):
    subject, _ = sessions.enrol()
    old, new = sessions.claim(subject), sessions.claim(subject)
    trial = sessions.state(subject)["trial"]["id"]
    refused(409, "tab", sessions.begin, subject, old, trial)
    see(sessions, subject, new, trial)
    refused(409, "tab", sessions.answer, subject, old, trial, "left")
    sessions.answer(subject, new, trial, "left")


@pytest.mark.parametrize(
    ("side", "rt"),
    [("middle", 1), (None, 1), ("left", "1"), ("left", float("nan")), ("left", -1),
     ("left", float("inf")), ("left", True), ("left", 1e12), ("left", 10**400), ("left", [1])],
)  # fmt: skip
def test_what_is_no_answer(sessions, side, rt):
    subject, _ = sessions.enrol()
    tab = sessions.claim(subject)
    trial = sessions.state(subject)["trial"]["id"]
    see(sessions, subject, tab, trial)
    refused(400, "form", sessions.answer, subject, tab, trial, side, rt)
    assert sessions.store.counts()["answers"] == 0


def test_plans_beyond_those_asked_for_go_to_whoever_comes(sessions):
    for expected in range(9):  # 4 were planned; nobody finishes
        assert sessions.enrol()[0] == expected
    assert len(sessions.store.db.execute("SELECT 1 FROM trial").fetchall()) == 9 * 6
    sessions.store.db.execute("UPDATE subject SET finished = 1 WHERE id < 4")
    refused(403, "full", sessions.enrol)


def test_nobody_begins_for_ever(sessions):
    for _ in range(40):
        sessions.enrol()
    refused(403, "full", sessions.enrol)


def test_refusals_are_kept_up_to_a_number(sessions, monkeypatch):
    monkeypatch.setattr("upscale.humaneval.store.MOST_REFUSALS", 3)
    for i in range(5):
        sessions.store.refuse(f"{i}" * 500)
    rows = sessions.store.db.execute("SELECT what FROM refused").fetchall()
    assert [row["what"] for row in rows] == ["0" * 300, "1" * 300, "2" * 300]


# --- on disk --------------------------------------------------------------------------------------


def test_nothing_in_the_folder_tells_which_picture_is_real(study):
    files = sorted((study / PICTURES).iterdir())
    assert len(files) == 8 * 5  # truth, lr, check, two methods
    assert all(len(file.stem) == 32 and int(file.stem, 16) >= 0 for file in files)
    for file in files:
        with Image.open(file) as image:
            assert image.size == (20, 24) and not image.info
    assert sorted(p.name for p in study.iterdir()) == ["pictures", "study.db"]


def test_nothing_personal_is_stored(study):
    """The columns, named here so that a new one is thought about."""
    with sqlite3.connect(study / "study.db") as db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(subject)")]
        answer = [row[1] for row in db.execute("PRAGMA table_info(answer)")]
    db.close()
    assert columns == ["id", "key_hash", "tab", "enrolled", "finished"]
    assert answer == ["subject", "position", "side", "rt_ms", "at"]


def test_two_builds_have_one_plan_but_no_common_secret(tmp_path):
    told, plans = [], []
    for name in ("a", "b"):
        store = open_study(make_study(tmp_path / name, seed=7))
        told.append({k: store.meta[k] for k in ("secret", "access", "study")})
        rows = store.db.execute("SELECT * FROM trial ORDER BY subject, position").fetchall()
        plans.append([tuple(row) for row in rows])
        store.close()
    assert plans[0] == plans[1]
    assert not set(told[0].values()) & set(told[1].values())


def test_a_preview_is_short_and_stores_nothing(tmp_path):
    study = make_study(tmp_path / "s", subjects=1, images=4, checks=3)
    before = (study / DATABASE).read_bytes()
    disk = open_study(study)
    store = preview(disk)
    disk.close()
    store.steady = iter(range(10**6)).__next__  # a second from look to look
    sessions = Sessions(store)
    for number in range(3):  # more than the study asks for
        subject, _ = sessions.enrol()
        tab = sessions.claim(subject)
        state = sessions.state(subject)
        kinds = []
        while state["phase"] == "trial":
            trial = state["trial"]["id"]
            kinds.append(state["trial"]["kind"])
            sessions.begin(subject, tab, trial)
            sessions.shown(subject, tab, trial, 50.0, 16.7)
            sessions.answer(subject, tab, trial, "left")
            state = sessions.state(subject)
        assert sorted(kinds) == ["check", "check", "main", "main", "practice"], number
        store.db.execute("UPDATE subject SET finished = NULL")  # else the study is complete
    assert store.meta["title"].startswith("Preview, nothing is stored: ")
    assert sorted(p.name for p in study.iterdir()) == ["pictures", DATABASE]
    assert (study / DATABASE).read_bytes() == before


def test_pictures_are_cut(tmp_path):
    store = open_study(make_study(tmp_path / "s", crop=10))
    sizes = {tuple(row) for row in store.db.execute("SELECT height, width FROM image")}
    file = store.files()[0, "truth"]
    store.close()
    assert sizes == {(10, 10)}
    with Image.open(tmp_path / "s" / PICTURES / file) as image:
        assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) == 100


def test_an_attention_check_is_coarse():
    rng = np.random.default_rng(0)
    rgb = rng.random((37, 50, 3)).astype(np.float32)
    made = coarse(rgb)
    assert made.shape == rgb.shape and made.dtype == np.float32
    assert (made[:3, :3] == made[0, 0]).all()
    assert made[:3, :3].mean((0, 1)) == pytest.approx(rgb[:3, :3].mean((0, 1)), abs=1e-6)
    assert made[36:, 48:].mean((0, 1)) == pytest.approx(rgb[36:, 48:].mean((0, 1)), abs=1e-6)


def test_a_study_is_never_overwritten_and_appears_whole(tmp_path):
    folder = make_study(tmp_path / "study")
    with pytest.raises(OutputError, match="exists"):
        make_study(folder)
    with pytest.raises(UsageError, match="need 99"):
        make_study(tmp_path / "other", images=97)
    (tmp_path / "empty").mkdir()
    make_study(tmp_path / "empty")

    class Broken(Exception):
        pass

    def fails(done, total):
        raise Broken

    from upscale.humaneval.build import Entry, build
    from upscale.image.picture import Picture

    rgb = np.zeros((4, 4, 3), np.float32)
    entry = Entry("a", Picture(rgb), rgb, {"m": rgb})
    with pytest.raises(Broken):
        settings = StudySettings(images=1, checks=0, practice=0)
        build([entry], 1, ("m",), settings, tmp_path / "half", on_picture=fails)
    with pytest.raises(InputError, match="m has 3x4 pixels, the truth 4x4"):
        narrow = Entry("a", Picture(rgb), rgb, {"m": rgb[:, :3]})
        build([narrow], 1, ("m",), settings, tmp_path / "half")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "study"]


def test_methods_and_pairs_that_cannot_be_meant():
    few = StudySettings(images=1)
    for methods, settings in [
        (("truth",), few),
        ((" ",), few),
        (("a", "b"), StudySettings(images=1, pairs=(("a", "c"),))),
        (("a", "b"), StudySettings(images=1, pairs=(("a", "a"),))),
        (("a", "b"), StudySettings(images=1, pairs=(("a", "b"), ("b", "a")))),
    ]:
        with pytest.raises(UsageError):
            plan_of(20, methods, settings)
    assert plan_of(20, ("a",), StudySettings()).images == 13
    assert plan_of(200, ("a",), StudySettings()).images == 50
    assert "voluntary" in CONSENT


def test_what_is_no_study(tmp_path):
    with pytest.raises(InputError, match="no study here"):
        open_study(tmp_path)
    (tmp_path / "study.db").write_bytes(b"something else, long enough to be read" * 50)
    with pytest.raises(InputError, match="cannot be read as a study"):
        open_study(tmp_path)
    newer = make_study(tmp_path / "s")
    with sqlite3.connect(newer / "study.db") as db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'version'", (json.dumps(3),))
    db.close()
    with pytest.raises(InputError, match="version 3; this diffsr reads 2"):
        open_study(newer)


def test_the_clock_of_the_day_does_not_decide_what_was_shown(study):
    store = open_study(study)
    clock, steady = Clock(), Clock()
    copy = in_memory(store, clock)
    copy.steady = steady
    copy.meta["seconds"] = 0.5
    sessions = Sessions(copy)
    subject, _ = sessions.enrol()
    tab = sessions.claim(subject)
    trial = sessions.state(subject)["trial"]["id"]
    sessions.begin(subject, tab, trial)
    clock.now += 3600  # it is set
    refused(403, "early", sessions.shown, subject, tab, trial, 50.0, 16.7)
    clock.now, steady.now = 0.0, steady.now + 1
    sessions.shown(subject, tab, trial, 50.0, 16.7)
    store.close()


def test_a_study_is_its_owners_alone(study):
    assert (study / "study.db").stat().st_mode & 0o077 == 0
