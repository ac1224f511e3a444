"""Tables and pages: what every report is written with."""

from __future__ import annotations

import csv
import io
import math

from upscale import document


def test_a_markdown_table_keeps_its_cells_apart() -> None:
    lines = document.markdown(["name", "value"], [("a|b", 1), ("c", 2.5)])
    assert lines == ["| name | value |", "| --- | --- |", "| a\\|b | 1 |", "| c | 2.5 |"]


def test_csv_has_every_column_and_json_no_infinity() -> None:
    rows = [{"a": 1, "b": math.inf}, {"a": 2, "c": "x,y"}]
    found = list(csv.DictReader(io.StringIO(document.to_csv(rows))))
    assert found == [{"a": "1", "b": "inf", "c": ""}, {"a": "2", "b": "", "c": "x,y"}]
    nested = document.finite({"a": [math.nan, 1.0, (-math.inf, "b")]})
    assert nested == {"a": [None, 1.0, [None, "b"]]}


def test_a_page_is_whole_escaped_and_fetches_nothing() -> None:
    page = document.page("<b>", document.table(["<i>"], [["&"]]), "p { color: red; }")
    assert page.startswith("<!doctype html>") and page.rstrip().endswith("</html>")
    assert "<title>&lt;b&gt;</title>" in page and "<th>&lt;i&gt;</th>" in page
    assert "<td>&amp;</td>" in page and "script" not in page
    assert "default-src 'none'" in page and "p { color: red; }" in page
    assert "script-src 'unsafe-inline'" in document.page("a", "", script="let x;")
    assert document.data_url(b"abc", "png") == "data:image/png;base64,YWJj"
