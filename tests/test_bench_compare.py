"""Two runs compared, published tables, the brief table: what is said and what is not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from upscale import document
from upscale.bench import compare, published, report, stats
from upscale.bench.columns import COLUMNS
from upscale.bench.stats import difference, interval, mean_of
from upscale.cli.main import cli
from upscale.errors import InputError, UsageError

pytestmark = pytest.mark.packaged

RNG = np.random.default_rng(2)
DIFFICULTY = RNG.normal(28, 3, 40)  # between pictures far more varies than between methods


def rows_of(psnr, **rest) -> list[dict]:
    base = {"method": "sr3", "weights": "w", "weights_sha256": "11", "sampler": "ddim", "steps": 2,
            "nfe": 2, "scale": 4.0, "kernel": "bicubic", "seed": 0, **rest}  # fmt: skip
    return [
        {"picture": f"{i}.png", "picture_sha256": f"p{i}", **base, "psnr": float(v),
         "lpips": 1 - float(v) / 50, "grid_ratio": 1.0 + i % 3}
        for i, v in enumerate(psnr)
    ]  # fmt: skip


def verdicts(before: list[dict], after: list[dict]) -> dict[str, str]:
    return {row["metric"]: row["verdict"] for row in compare.compare(before, after)[0]}


def test_a_small_gain_on_every_picture_is_seen_through_their_differences() -> None:
    better = DIFFICULTY + 0.05 + RNG.normal(0, 0.1, 40)
    before = rows_of(DIFFICULTY)
    after = rows_of(better, weights="new", weights_sha256="22")
    assert verdicts(before, after) == {"psnr": "better", "lpips": "better", "grid_ratio": "same"}
    assert verdicts(after, before)["psnr"] == "worse"
    (row, *_), notes = compare.compare(before, after)
    assert row["difference"].value == pytest.approx(np.mean(better - DIFFICULTY))
    assert row["difference"].low < 0.05 < row["difference"].high and notes == []


def test_chance_is_called_the_same_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(0)
    runs = [
        difference(list(a), list(a + rng.normal(0, 1, 30))) for a in rng.normal(0, 9, (200, 30))
    ]
    wrong = sum(run.sure for run in runs)
    assert 2 <= wrong <= 24  # 10 expected


@pytest.mark.parametrize("count", [3, 5, 8])
def test_few_pictures_raise_no_more_false_alarms(count: int) -> None:
    values = np.random.default_rng(1).standard_normal((2000, count))
    wrong = [low > 0 or high < 0 for run in np.split(values, 20) for low, high in interval(run).T]
    assert 0.03 < np.mean(wrong) < 0.07


def test_two_pictures_are_as_far_apart_as_student_says() -> None:
    mean = mean_of([1.0, 3.0])  # their bootstrap's ends, which t with one degree of freedom widens
    assert mean.high - 2 == pytest.approx(math.sqrt(2) * 12.7062 / 1.959964, rel=1e-5)
    assert mean.low + mean.high == pytest.approx(4)
    known = {2: 4.302653, 3: 3.182446, 7: 2.364624, 30: 2.042272, 1000: 1.962339}
    for freedom, quantile in known.items():  # of printed tables
        assert stats._student(freedom) == pytest.approx(quantile, abs=1e-6)


def test_what_does_not_pair_is_told() -> None:
    before = rows_of(DIFFICULTY) + rows_of(DIFFICULTY, method="ecdp")
    after = rows_of(DIFFICULTY[:30], versions="torch 3", steps=4) + rows_of([20], method="idm")
    after[0]["picture_sha256"] = "another"
    found, notes = compare.compare(before, after)
    paired = {(row["against"], row["trial"]) for row in found}  # its only one, steps or not
    assert paired == {("sr3 x4 ddim 2 steps", "sr3 x4 ddim 4 steps")}
    assert found[0]["pictures"] == 29
    assert any("11 pictures in one run only" in note for note in notes)
    assert "ecdp x4 ddim 2 steps is in the first run only" in notes
    assert "idm x4 ddim 2 steps is in the second run only" in notes
    with pytest.raises(InputError, match="no trial and picture"):
        compare.compare(rows_of([1.0]), rows_of([1.0], method="ecdp"))


def test_several_weights_of_a_method_pair_by_their_hash_then_by_their_name() -> None:
    shas = {"a": "11", "b": "22", "c": "33"}
    before, after = (
        [row for name in names for row in rows_of(DIFFICULTY + ord(name) - shift, weights=name,
                                                  weights_sha256=shas[name])]
        for names, shift in (("ab", 0), ("cba", 1))
    )  # fmt: skip
    name = "sr3 x4 ddim 2 steps, "
    for other in (after, [{**row, "weights_sha256": "new"} for row in after]):
        found, notes = compare.compare(before, other)
        pairs = {(row["against"][-1], row["trial"][-1]) for row in found}
        assert notes[-1] == f"{name}c is in the second run only"
        if other is after:
            assert {row["trial"] for row in found} == {name + "a", name + "b"}
            assert pairs == {("a", "a"), ("b", "b")}
        assert {row["difference"].value for row in found if row["metric"] == "psnr"} == {-1}
    ways = [{**row, "temperature": t, "preset": p} for t, p in ((0.5, "fast"), (1.0, "best"))
            for row in rows_of(DIFFICULTY)]  # fmt: skip
    found, notes = compare.compare(ways, ways)
    assert {row["trial"] for row in found} == {name + "fast, temperature 0.5",
                                               name + "best, temperature 1.0"}  # fmt: skip
    twins = [row for sha in ("11", "22") for row in rows_of(DIFFICULTY, weights_sha256=sha)]
    third = rows_of(DIFFICULTY, weights="v", weights_sha256="33")
    found, _ = compare.compare(twins + third, twins + third)  # files of one name, in two folders
    assert {row["trial"] for row in found} == {f"{name}{own}" for own in ("w, 11", "w, 22", "v")}


def test_any_two_trials_of_one_run_are_compared() -> None:
    rows = rows_of(DIFFICULTY) + rows_of(DIFFICULTY + 1, steps=4, nfe=4)
    rows += rows_of(DIFFICULTY - 1, method="x", scale=2.0)
    found, notes = compare.compare(rows, rows, ("sr3, 4 steps", "x"))
    assert (found[0]["against"], found[0]["trial"]) == ("sr3, 4 steps", "x")
    assert found[0]["difference"].value == pytest.approx(-2) and found[0]["verdict"] == "worse"
    assert notes == ["x: scale was 4.0, is 2.0"]
    with pytest.raises(InputError, match="called 'sr4'; choose from sr3, 2 steps; sr3, 4 steps; x"):
        compare.compare(rows, rows, ("sr4", "x"))


def test_a_run_says_whether_its_trials_differ_from_the_first() -> None:
    b = rows_of(DIFFICULTY + 0.05 + RNG.normal(0, 0.1, 40), method="B")
    rows = rows_of(DIFFICULTY, method="A") + b + rows_of(DIFFICULTY, method="C", scale=2.0)
    found = compare.flat(compare.against_first(rows))  # C is the only one at 2x
    assert {(row["trial"], row["against"]) for row in found} == {("B", "A")}
    first = found[0]
    assert first["verdict"] == "better" and 0 < first["low"] < first["difference"] < first["high"]
    text = report.to_markdown(rows)
    assert "| less A | PSNR | LPIPS (alex) | grid |" in text
    assert f"| B | +{first['difference']:.2f} better |" in text and "| 0.00 same |" in text
    assert f"({first['low']:.2f}..{first['high']:.2f}) better |" in report.to_markdown(rows, True)
    alone = compare.against_first(rows[:1] + b[:1])  # one picture has no interval
    assert {row["verdict"] for row in alone} == {"unknown"}


def test_means_and_their_difference_are_of_the_same_pictures() -> None:
    after = rows_of(DIFFICULTY + 1)
    after[3]["psnr"], after[7]["psnr"] = None, math.inf  # no number in this run only
    row = compare.flat(compare.compare(rows_of(DIFFICULTY), after)[0])[0]
    assert (row["metric"], row["pictures"]) == ("psnr", len(DIFFICULTY) - 2)
    assert row["after"] - row["before"] == pytest.approx(row["difference"]) == pytest.approx(1)


def test_a_changed_protocol_is_told() -> None:
    notes = compare.compare(rows_of(DIFFICULTY), rows_of(DIFFICULTY, kernel="box", seed=7))[1]
    assert notes == ["sr3 x4 ddim 2 steps: kernel was bicubic, is box",
                     "sr3 x4 ddim 2 steps: seed was 0, is 7"]  # fmt: skip


def test_the_command_compares_files(tmp_path: Path) -> None:
    for name, rows in (("a", rows_of(DIFFICULTY)), ("b", rows_of(DIFFICULTY + 1))):
        (tmp_path / f"{name}.json").write_text(document.to_json({"rows": rows, "differences": []}))
    a, b = str(tmp_path / "a.json"), str(tmp_path / "b.json")
    shown = CliRunner().invoke(cli, ["bench", "--compare", a, b], standalone_mode=False)
    assert "sr3 x4 ddim 2 steps (40 pictures):" in shown.stdout
    assert "| +1.000 (1.000..1.000) | better |" in shown.stdout
    assert max(len(line) for line in shown.stdout.splitlines() if "|" in line) <= report.WIDTH
    args = ["bench", "--compare", a, a, "--trials", "sr3", "sr3"]
    assert "| 0.000 (0.000..0.000) | same |" in CliRunner().invoke(
        cli, args, standalone_mode=False
    ).stdout  # fmt: skip
    args = ["bench", "--compare", a, b, "--json", "-"]
    parsed = json.loads(CliRunner().invoke(cli, args, standalone_mode=False).stdout)
    assert parsed["rows"][0]["verdict"] == "better" and parsed["notes"] == []
    (tmp_path / "c.json").write_text('{"trials": []}')
    row = {"picture": "a", "method": "sr3", "scale": 4.0, "psnr": 1.0}
    strange = ({"picture": ["a"]}, {"psnr": "1"}, {"method": None}, {"scale": "4"}, {"asked": 1},
               {"weights": []})  # fmt: skip
    for number, one in enumerate(strange):
        (tmp_path / f"{number}.json").write_text(json.dumps([row, row | one]))
    bads = [(f"{number}.json", "not the rows") for number in range(len(strange))]
    for bad, why in (*bads, ("c.json", "not the rows"), ("none.json", "No such file"),
                     (".", "cannot be read (Is a directory)")):  # fmt: skip
        args = ["bench", "--compare", a, str(tmp_path / bad)]
        result = CliRunner().invoke(cli, args, standalone_mode=False)
        assert isinstance(result.exception, InputError) and why in str(result.exception)


def test_what_no_picture_has_is_no_number() -> None:
    """NIQE of small pictures: a dash, as in the table of means."""
    one, two = ([{**row, "niqe": math.nan} for row in rows_of(DIFFICULTY, method=name)]
                for name in ("sr3", "ecdp"))  # fmt: skip
    text = report.to_markdown([*one, *two]) + compare.to_markdown(*compare.compare(one, one))
    assert "- unknown" in text and "| NIQE | - | - | - | unknown |" in text and "nan" not in text


def test_no_number_is_less_than_nothing_and_printed_as_nothing() -> None:
    """A mean of -0.001 with two digits, in every table."""
    tiny, plain = np.float64(-0.001), DIFFICULTY
    change = stats.Mean(tiny, -0.004, 0.004)
    assert change.text(2) == "0.00 (0.00..0.00)" and stats.Mean(-0.5, -1, -0.1).text(1)[0] == "-"
    for shift in (tiny, -tiny):
        runs = rows_of(plain), rows_of(plain + shift, method="ecdp")
        shown = report.to_markdown([*runs[0], *runs[1]])
        assert "0.00 better" in shown or "0.00 worse" in shown
        assert "-0.00 " not in shown and "+0.00 " not in shown


# --- published ----------------------------------------------------------------------------------


def test_published_tables_hold_what_the_papers_print() -> None:
    tables = published.tables()
    ecdp = {row["method"]: row for row in tables["div2k-4x"].rows}
    assert (ecdp["ECDP"]["lpips"], ecdp["ECDP"]["psnr"], ecdp["SR3"]["ssim"]) == (
        0.108,
        28.03,
        0.75,
    )
    idm = {row["method"]: row for row in tables["celeba-hq-8x"].rows}
    assert (idm["SR3"]["consistency"], idm["IDM"]["psnr"]) == (2.68, 24.01)
    for table in tables.values():
        assert table.protocol and table.source and table.rows
        assert all(set(row) - {"method"} <= set(COLUMNS) for row in table.rows)


def test_published_tables_are_chosen_and_marked() -> None:
    names = [t.name for t in published.choose("auto", "div2k-val", (2.0, 4.0))]
    assert names == ["div2k-4x-idm", "div2k-4x"]
    assert published.choose("auto", "div2k-val", (8.0,)) == published.choose("none", "x", ()) == []
    with pytest.raises(UsageError, match="table x; choose from auto, none, celeba-hq-8x"):
        published.choose("x", "", ())
    text = report.markdown_of(published.parts(published.choose("celeba-hq-8x", "", ())))
    assert text.startswith("Published, not measured here: IDM (Gao et al. 2023), Table 2, x8. ")
    assert "| SR3 | 23.04 | 0.65 | 2.68 |" in text and "Protocol: 16 to 128 pixels" in text


# --- the brief table ----------------------------------------------------------------------------


def test_the_brief_table_names_what_differs_and_marks_the_best() -> None:
    rows = rows_of([20, 30]) + rows_of([21, 31], steps=4, nfe=4) + rows_of([19, 25], method="x")
    lines = report.to_markdown(rows).splitlines()
    assert lines[0] == "|  | PSNR | LPIPS (alex) | grid | calls |"
    assert lines[2:5] == [
        "| sr3, 2 steps | 25.00 | 0.5000 | 1.50 | 2 |",
        "| sr3, 4 steps | **26.00** | **0.4800** | 1.50 | 4 |",
        "| x | 22.00 | 0.5600 | 1.50 | 2 |",
    ]


def test_a_number_of_all_pictures_has_no_interval() -> None:
    rows = [{**row, "fid": 12.5} for row in rows_of(DIFFICULTY)]
    assert report.summary(rows)[0]["fid"] == "12.500"
    assert math.isnan(report.means(rows)[0]["fid"].low)
    assert "fid" not in verdicts(rows, rows)


def test_scales_and_weights_are_lines_of_their_own() -> None:
    twins = report.means(rows_of([20.0]) + rows_of([23.0], weights_sha256="2233445566"))
    assert report.names_of(twins) == ["sr3, 11", "sr3, 22334455"]
    rows = rows_of([20.0]) + rows_of([22.0], scale=2.0) + rows_of([23.0], weights_sha256="22")
    assert [(r["scale"], r["psnr"]) for r in report.summary(rows)] == [
        (4.0, "20.00"), (2.0, "22.00"), (4.0, "23.00"),
    ]  # fmt: skip
    assert "x4 and x2, input by bicubic" in report.to_markdown(rows)
