"""From answers to rates: what counts, what is written, and simulated subjects with a known bias."""

from __future__ import annotations

import csv
import json
import math
import os
import re

import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

from humaneval_study import make_study

from upscale.errors import InputError, UsageError
from upscale.humaneval import analysis, html, report, simulate, stats
from upscale.humaneval.analysis import Rules, analyse
from upscale.humaneval.build import Entry, StudySettings, build
from upscale.humaneval.design import CHECK, TRUTH
from upscale.humaneval.session import Sessions
from upscale.humaneval.simulate import Bias
from upscale.humaneval.store import in_memory, open_study
from upscale.image.picture import Picture


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("r") / "study"
    return make_study(folder, pictures=10, images=6, checks=2, pairs=(("one", "two"),))


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def answered(study, decide, subjects=4, views=1, finish=True):
    """A copy in which `decide(subject, trial) -> (role chosen, rt_ms)` answered."""
    disk = open_study(study)
    store = in_memory(disk, Clock())
    disk.close()
    sessions = Sessions(store)
    for _ in range(subjects):
        subject, _ = sessions.enrol()
        tab = sessions.claim(subject)
        rows = store.db.execute(
            "SELECT * FROM trial WHERE subject = ? ORDER BY position", (subject,)
        ).fetchall()
        for row in rows[: None if finish else -1]:
            trial = sessions.trial_id(row)
            for _ in range(views):
                sessions.begin(subject, tab, trial)
            store.clock.now += 1
            sessions.shown(subject, tab, trial, 50.0, 16.7, 51.0, 1 + subject % 2)
            role, rt = decide(subject, row)
            side = "left" if row["left_role"] == role else "right"
            sessions.answer(subject, tab, trial, side, rt)
    return store


def honest(subject, row):
    """The truth, but for every third picture; `one` over `two`."""
    roles = {row["left_role"], row["right_role"]}
    if CHECK in roles:
        return TRUTH, 500.0
    if TRUTH not in roles:
        return "one", 700.0
    model = (roles - {TRUTH}).pop()
    return (model if row["picture"] % 3 == 0 else TRUTH), 600.0


def test_rates_are_the_answers(study):
    store = answered(study, honest)
    found = analyse(store, Rules())
    rows = [dict(row) for row in store.db.execute("SELECT * FROM trial WHERE kind = 'main'")]
    for told in found["rates"]:
        own = [r for r in rows if 1 + r["subject"] % 2 == told["task"]
               and {r["left_role"], r["right_role"]} == {TRUTH, told["method"]}]  # fmt: skip
        chosen = sum(r["picture"] % 3 == 0 for r in own)
        assert (told["n"], told["chosen"]) == (len(own), chosen)
        assert told["rate"] == chosen / len(own)
        assert told["wilson"] == stats.wilson(chosen, len(own))
        assert told["rt_median"] == 600
        assert told["agreement"] in (1.0, None)
    assert {(r["task"], r["method"]) for r in found["rates"]} == {
        (1, "one"), (1, "two"), (2, "one"), (2, "two")
    }  # fmt: skip
    assert [(r["method"], r["against"], r["rate"]) for r in found["preferences"]] == [
        ("one", "two", 1.0)
    ] * 2
    lefts = sum(row["side"] == "left" for row in store.answers() if row["kind"] == "main")
    assert found["sides"]["left"] == lefts and found["sides"]["n"] == 24
    assert found["timing"]["presented_ms"] == {"n": 36, "median": 51.0, "min": 51.0, "max": 51.0}
    assert found["zooms"] == [(1, 18), (2, 18)]
    assert found["exclusions"]["left_out"] == []
    for row in found["pictures"]:
        if "against" not in row:
            assert row["rate"] == float(row["id"] % 3 == 0)
            assert row["picture"] == f"picture{row['id']}"


def test_what_does_not_count(study):
    disk = open_study(study)
    first_check = disk.row("SELECT min(position) FROM trial WHERE subject = 1 AND kind = 'check'")[
        0
    ]
    disk.close()

    def decide(subject, row):
        role, rt = honest(subject, row)
        if subject == 0 and row["kind"] == "check":
            return CHECK, rt  # two of two
        if subject == 1 and row["kind"] == "check" and row["position"] == first_check:
            return CHECK, rt  # one is forgiven
        if subject == 2 and row["position"] % 2:
            return role, 100.0
        if subject == 3 and row["position"] == 4:
            return role, 199.0
        return role, None if row["position"] == 3 else rt

    found = analyse(answered(study, decide), Rules())
    told = found["exclusions"]
    assert [(one["subject"], one["reasons"]) for one in told["left_out"]] == [
        ("S001", ["failed 2 of 2 attention checks"]),
        ("S003", ["44% of the answers too fast"]),
    ]
    kept = {row["subject"] for row in found["answers"] if row["excluded"] is None}
    assert kept == {1, 3}
    reasons = [row["excluded"] for row in found["answers"] if row["subject"] == 3]
    fast = [row for row in found["answers"] if row["subject"] == 3 and row["position"] == 4]
    expected = "too fast" if fast[0]["kind"] == "main" else fast[0]["kind"]
    assert reasons[4] == expected
    assert sum(row["n"] for row in found["rates"] + found["preferences"]) == sum(
        row["excluded"] is None for row in found["answers"]
    )
    strict = analyse(answered(study, decide), Rules(max_failed=0))
    assert "S002" in [one["subject"] for one in strict["exclusions"]["left_out"]]
    loose = analyse(answered(study, decide), Rules(max_failed=2, min_rt=0))
    assert loose["exclusions"]["left_out"] == []


def test_interrupted_and_unfinished(study):
    with pytest.raises(InputError, match=r"no answer counts.*shown more than once"):
        analyse(answered(study, honest, views=2), Rules())
    assert analyse(answered(study, honest, views=2), Rules(keep_interrupted=True))["rates"]
    assert analyse(answered(study, honest, finish=False), Rules())["rates"]
    with pytest.raises(InputError, match="not finished"):
        analyse(answered(study, honest, finish=False), Rules(complete_only=True))
    with pytest.raises(InputError, match=r"no answers yet: 0 of 4 subjects began.*--preview"):
        analyse(answered(study, honest, subjects=0), Rules())


def test_what_a_study_lacks_is_told(study, tmp_path):
    store = answered(study, honest, subjects=1)
    found = {**analyse(store, Rules()), "simulated": None}
    told = found["missing"]
    assert "always or never, or by one subject, the first is Wilson" in html.page(found, {}, 0)
    assert told[:2] == ["1 of 4 subjects finished; the study goes on.",
                        "Task 2 has no answers yet for one, two."]  # fmt: skip
    assert [line.partition(":")[0] for line in told[2:]] == ["Task 1, one", "Task 1, two"]
    assert all("The interval is Wilson's" in line for line in told[2:])
    assert all(row["interval"] == row["wilson"] for row in found["rates"])
    report.write(found, store, study, tmp_path)
    assert told[0] in (tmp_path / "report.html").read_text()
    assert analyse(answered(study, honest), Rules())["missing"] == []


def test_the_files(study, tmp_path):
    store = answered(study, honest)
    found = {**analyse(store, Rules()), "simulated": None}
    report.write(found, store, study, tmp_path / "new" / "r", top=2)
    folder = tmp_path / "new" / "r"
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 3
    shown = sum(min(4, row["pictures"]) for row in found["rates"])
    assert shown >= 8 and page.count("data:image/png;base64,") == 3 * shown
    assert "picture0" in page and "Simulated" not in page
    assert "on pixels of the screen: 1x1 (18 trials), 2x2 (18 trials)." in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page) and "<script" not in page
    told = json.loads((folder / "report.json").read_text())
    assert [row["rate"] for row in told["rates"]] == [row["rate"] for row in found["rates"]]
    with (folder / "answers.csv").open() as file:
        answers = list(csv.DictReader(file))
    assert len(answers) == 36
    assert {row["subject"] for row in answers} == {"S001", "S002", "S003", "S004"}
    chosen = sum(
        row[f"{row['side']}_role"] != TRUTH for row in answers
        if not row["excluded"] and TRUTH in (row["left_role"], row["right_role"])
    )  # fmt: skip
    assert chosen == sum(row["chosen"] for row in found["rates"])
    with (folder / "rates.csv").open() as file:
        rates = list(csv.DictReader(file))
    assert [float(row["interval_low"]) for row in rates[:4]] == [
        row["interval"][0] for row in found["rates"]
    ]
    again = {**analyse(store, Rules()), "simulated": None}
    report.write(again, store, study, tmp_path / "twice", top=2)
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / "twice" / file.name).read_bytes(), file.name


def test_names_are_text_in_page_and_spreadsheet(tmp_path):
    name = '=1+1<b>&"'
    study = make_study(tmp_path / "s", methods=(name,), title="<i>title</i>")
    store = simulate.simulated(open_study(study), Bias({name: 0.5}), 0)
    found = {**analyse(store, Rules()), "simulated": "<u>"}
    report.write(found, store, study, tmp_path / "r")
    page = (tmp_path / "r/report.html").read_text()
    for raw in ("<b>&", "<i>title", "<u>"):
        assert raw not in page
    assert "&lt;u&gt;" in page and "no person gave these answers" in page
    assert "'=1+1" in (tmp_path / "r/rates.csv").read_text()


def test_best_and_worst_share_no_picture():
    rows = [{"id": i} for i in range(5)]
    assert html.ends(rows, 2) == (rows[:2], [rows[4], rows[3]])
    assert html.ends(rows, 4) == (rows[:4], [rows[4]])
    assert html.ends(rows[:1], 3) == (rows[:1], [])


# --- simulated subjects ---------------------------------------------------------------------------


def test_the_intercept_gives_the_mean():
    rng = np.random.default_rng(0)
    w = rng.normal(0, 1.1, 400_000)
    for rate in (0.05, 0.4, 0.5, 0.9):
        a = simulate.intercept(rate, 1.1)
        assert np.mean(1 / (1 + np.exp(-(a + w)))) == pytest.approx(rate, abs=0.002)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """20 subjects, each 10 of 20 pictures, one method, one task."""
    folder = tmp_path_factory.mktemp("large") / "study"
    return make_study(folder, pictures=20, images=10, checks=2, practice=0, subjects=20,
                      methods=("sr3",), tasks=(2,), size=(4, 4))  # fmt: skip


@pytest.mark.slow
def test_intervals_cover_a_true_rate_of_40_percent(large):
    """The whole chain, 200 times; 95% of 200 within three deviations of a binomial share."""
    store = open_study(large)
    (row,) = simulate.coverage(store, Bias({"sr3": 0.40}), 200)
    store.close()
    assert row["studies"] == 200
    assert abs(row["mean"] - 0.40) < 0.02
    spread = 3 * math.sqrt(0.95 * 0.05 / 200)
    assert 0.95 - spread <= row["interval"] <= min(1.0, 0.95 + spread)
    # answers are no independent ones: who takes them for such covers less
    assert row["wilson"] < row["interval"] and row["by_pictures"] < row["interval"]


def test_simulation_reaches_the_report(large):
    disk = open_study(large)
    biased = simulate.simulated(disk, Bias({"sr3": 0.2}, left=1.0, careless=0.0), 1)
    found = analyse(biased, Rules())
    (rate,) = found["rates"]
    assert rate["interval"][0] < 0.3 and rate["n"] == 20 * 10
    assert found["sides"]["rate"] > 0.55
    assert {row["kind"] for row in found["answers"]} == {"main", "check"}
    careless = simulate.simulated(disk, Bias({"sr3": 0.2}, careless=0.5), 1)
    left_out = analyse(careless, Rules())["exclusions"]["left_out"]
    assert 1 <= len(left_out) <= 8  # of about 10, a quarter of whom fail both checks by chance
    assert open_study(large).counts()["answers"] == 0, "the study itself is untouched"
    disk.close()


def test_rates_to_simulate(study):
    store = open_study(study)
    assert simulate.rates_of("0.4", store) == {"one": 0.4, "two": 0.4}
    assert simulate.rates_of("two=0.3, 0.4", store) == {"one": 0.4, "two": 0.3}
    for text in ("1", "0", "x", "three=0.4", "one=0.4", "", "one=", "nan"):
        with pytest.raises(UsageError):
            simulate.rates_of(text, store)
    store.close()


def test_a_better_method_is_told_from_a_worse(tmp_path):
    study = make_study(tmp_path / "s", pictures=30, images=24, subjects=30, tasks=(1,),
                       size=(4, 4), pairs=(("one", "two"),))  # fmt: skip
    store = simulate.simulated(open_study(study), Bias({"one": 0.45, "two": 0.2}), 3)
    found = analysis.analyse(store, Rules())
    (row,) = found["comparisons"]
    assert (row["method"], row["against"]) == ("one", "two")
    assert row["interval"][0] > 0 and row["p_holm"] == row["p"] < 0.001
    (pair,) = found["preferences"]
    assert 0.5 < pair["rate"] < 0.85  # 0.45 against 0.2: 69%


def test_a_picture_whose_name_is_no_text(tmp_path):
    rgb = np.zeros((20, 24, 3), np.float32)
    entry = Entry("\udcff", Picture(rgb), rgb, {"one": rgb})
    settings = StudySettings(images=1, checks=0, practice=0, subjects=1)
    build([entry], 1, ("one",), settings, tmp_path / "study")
    assert open_study(tmp_path / "study").row("SELECT name FROM picture")[0] == r"\udcff"


def test_a_study_where_nothing_can_be_written(tmp_path, monkeypatch):
    """SQLite cannot open it there, whoever asks."""
    (tmp_path / "study.db").write_text("no database")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="copy the study to a folder that can be written to"):
        open_study(tmp_path)


def test_a_damaged_study_is_told_when_it_is_opened(study, tmp_path):
    data = bytearray((study / "study.db").read_bytes())
    data[8192:40000] = b"\x55" * (40000 - 8192)
    (tmp_path / "study.db").write_bytes(data)
    with pytest.raises(InputError, match=r"study\.db: cannot be read as a study"):
        open_study(tmp_path).close()
