# SPDX-License-Identifier: GPL-2.0
import collections

import pytest

from ci.build.files import read_json
from ci.build.git import git
from ci.facts import base as base_
from ci.facts.text import ROOT, BadInput
from ci.proof import coverage

LINES = {"arch/x86/kvm/a.c": {3: "\tone();", 4: "\ttwo();", 5: "/* three */", 6: ""},
         "arch/other/b.c": {1: "x();"}}


def compare(counts, excuses=(), lines=None):
    counted = {"arch/x86/kvm/a.c": collections.Counter(counts)}
    table = coverage.compare("x86", lines or LINES, counted, excuses)
    return table, coverage.render(table)


def test_all_executed():
    table, text = compare({3: 7, 4: 1})
    assert coverage.good(table)
    assert text.startswith("x86: 2 of 2 lines with code executed, 0 neither executed nor excused\n")
    assert "        7 arch/x86/kvm/a.c:3: one();" in text
    assert "        - arch/x86/kvm/a.c:5: /* three */" in text
    assert "a.c:6" not in text
    assert "not built here: arch/other/b.c" in text


def test_not_executed():
    table, text = compare({3: 7, 4: 0})
    assert not coverage.good(table)
    assert "1 of 2 lines with code executed, 1 neither executed nor excused" in text
    assert "##### arch/x86/kvm/a.c:4: two();" in text


def test_no_code_at_all():
    assert not coverage.good(compare({})[0])


def test_excused():
    table, text = compare({3: 7, 4: 0},
                          [["all", "arch/x86/kvm/a.c", "two();", "no such hardware"]])
    assert coverage.good(table)
    assert "[no such hardware]" in text


@pytest.mark.parametrize("number, good", ((1, False), (2, True)))
def test_an_excuse_is_for_one_line(number, good):
    excuse = [["x86", "arch/x86/kvm/a.c", "two();", "why"]]
    lines = {"arch/x86/kvm/a.c": {4: "\ttwo();", 9: "\t\ttwo();"}}
    assert coverage.good(compare({4: 0, 9: 0}, excuse * number, lines)[0]) == good


def test_excused_for_nothing():
    excuses = [["x86", "arch/x86/kvm/a.c", "two();", "why"],
               ["arm64", "arch/x86/kvm/a.c", "two();", "why"]]
    table, text = compare({3: 7, 4: 1}, excuses)
    assert not coverage.good(table)
    assert text.count("stale line in uncovered: arch/x86/kvm/a.c: two();") == 1


def test_records(tmp_path):
    raw = tmp_path / "raw"
    raw.write_bytes(b"/a.gcda\n00000003\nx\ny" + b"/b.gcda\n00000000\n" + b"end\n00000002\n")
    assert list(coverage.records(raw)) == [("/a.gcda", b"x\ny"), ("/b.gcda", b"")]


@pytest.mark.parametrize("cut", (b"/a.gcda\n00000009\nx\ny", b"/a.gcda\n00000003\nx\ny", b"",
                                 b"/a.gc", b"/a.gcda\n00000003\nx\ny" + b"end\n00000002\n"))
def test_records_that_were_cut_off(tmp_path, cut):
    (tmp_path / "raw").write_bytes(cut)
    with pytest.raises(BadInput):
        list(coverage.records(tmp_path / "raw"))


def test_lines_of_the_series(tmp_path):
    git(tmp_path, "init", "-q")
    for text in ("one\ntwo\n", "zero\none\n2\n"):
        (tmp_path / "tools").mkdir(exist_ok=True)
        for name in ("a.c", "a.txt", "tools/b.c"):
            (tmp_path / name).write_text(text)
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-qm", "a")
    git(tmp_path, "update-ref", "refs/remotes/origin/base", "HEAD~")
    assert coverage.series_lines(tmp_path) == {"a.c": {1: "zero", 3: "2"}}


@pytest.mark.parametrize("base", base_.names())
def test_our_excuses_can_be_read(base):
    coverage.load_excuses(base_.PATCHES / base / "uncovered")


def test_an_excuse_without_a_reason_is_refused(tmp_path):
    (tmp_path / "uncovered").write_text("# a\nx86 | a.c | two();\n")
    with pytest.raises(BadInput, match="uncovered:2: want architecture"):
        coverage.load_excuses(tmp_path / "uncovered")


def test_the_committed_table():
    tables = read_json(ROOT / "results" / "coverage.json")
    assert all(map(coverage.good, tables))
    assert "\n".join(map(coverage.render, tables)) == (
        ROOT / "results" / "coverage.txt").read_text()
