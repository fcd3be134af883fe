# SPDX-License-Identifier: GPL-2.0
"""make bench: ci/measure/faults.py.  The faults of the harness are in test_faults.py."""
import contextlib
import json
import pathlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest

from ci.config import Config
from ci.facts.cases import Case
from ci.facts.text import BadInput
from ci.judge.check import Status
from ci.measure import faults, tables, timeline
from ci.measure.faults import Row
from ci.tests.fake_run import FakeRun, fake_boot, install

PART = ("0 mark\n3 page\n4 kernel\n10 fault\n30 guest\n40 page\n41 kernel\n51 fault\n67 guest\n"
        "80 page\n81 kernel\n99 mark\n")
CALIBRATION: dict[str, Any] = {"mode": "mapped", "calibration": 1, "ticks": 1, "hz": 1000000000}
BATCH: dict[str, Any] = {"mode": "mapped", "pages": 3, "exits": 3, "planted": 0, "ticks": 98}
ONE = Fraction(1)


def row(mode: str, price: int, spread: int = 0, planted: int = 0) -> Row:
    return Row(mode, Fraction(price), Fraction(spread), planted)


def boot(directory: pathlib.Path, records: Sequence[dict[str, Any]], part: str = "",
         passed: Sequence[str] = ("mapped",), wanted: Sequence[str] = ("mapped",)) -> Any:
    cases = tuple(Case(name, ("all",), "-", 1, ("a",)) for name in wanted)
    files = {"bench.jsonl": "\n".join(map(json.dumps, records)), "timeline": part}
    return fake_boot(directory, files, passed, cases=cases, timeline=("enter=",))


# --- prices ---

def batches_of(*sizes: int) -> list[dict[str, int]]:
    return [{"pages": size, "ticks": 1000 + size * 7} for size in sizes]


def test_price_is_the_slope() -> None:
    assert faults.price(batches_of(*(512, 1536) * 4), Fraction(16)) == (7 * 16, 0)


def test_order_within_a_pair_does_not_matter() -> None:
    assert faults.price(batches_of(*(1, 3, 3, 1) * 2), ONE) == (7, 0)


def test_spread_is_of_the_dearest_and_the_cheapest_pair() -> None:
    batches = batches_of(*(1, 3) * 4)
    batches[1]["ticks"] += 8
    assert faults.price(batches, ONE) == (8, 4)


def test_instructions_per_tick() -> None:
    assert faults.instructions_per_tick([{"hz": 62500000}]) == 16
    assert faults.instructions_per_tick([]) == 0


def test_a_clock_that_is_not_exact_is_not_reported() -> None:
    exact, not_exact = ({"calibration": 1000000, "ticks": 1000000 + more} for more in (5, 1005))
    faults.check_calibration([exact], ONE)
    with pytest.raises(BadInput, match="1000000 instructions took 1001005 .* not exact"):
        faults.check_calibration([not_exact], ONE)
    with pytest.raises(BadInput, match="no calibration"):
        faults.check_calibration([], ONE)


@pytest.mark.parametrize("sizes", ((), (1, 3), (1, 1) * 4, (1, 3, 1), (1, 3) * 3 + (3, 3)))
def test_batches_must_be_pairs(sizes: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="want 4 pairs"):
        faults.price(batches_of(*sizes), ONE)


@pytest.mark.parametrize("price, findings", ((1100, 0), (1111, 1), (100, 1), (0, 1)))
def test_a_planted_cost_must_be_found(price: int, findings: int) -> None:
    rows = [row("fast", 100, 5), row("fast_planted", price, 5, 1000)]
    assert len(list(faults.check_planted(rows))) == findings


def test_merit() -> None:
    rows = [row("mapped", 10), row("empty_exit", 20), row("uffdio_continue", 30),
            row("fast_minor", 90)]
    assert faults.machine("x86/npt", rows, {})["merits"] == [{
        "mode": "fast_minor", "ratio": 1.5, "parts": ["empty_exit", "uffdio_continue", "mapped"],
        "floor": 60}]
    assert faults.machine("x86/npt", rows[1:], {})["merits"] == []


def test_a_peer_is_of_the_same_kind() -> None:
    rows = [row("uffd_minor_sharded", 200), row("uffd_minor_sharded_write", 300),
            row("fast_minor", 100), row("fast_minor_write", 100), row("mapped", 1)]
    prices = faults.machine("x86/npt", rows, {})["prices"]
    assert [price["ratio"] for price in prices] == [None, None, 2.0, 3.0, None]


def test_a_boot_is_measured(tmp_path: pathlib.Path) -> None:
    batches = [{**BATCH, "pages": pages, "ticks": 10 + 7 * pages} for pages in (1, 3) * 4]
    measured = boot(tmp_path, [CALIBRATION, *batches])
    assert faults.measure(measured) == [row("mapped", 7)]
    assert measured.findings == []


def test_what_is_no_record(tmp_path: pathlib.Path) -> None:
    measured = boot(tmp_path, [CALIBRATION, {"mode": "mapped", "pages": 1}])
    assert faults.measure(measured) == []
    (finding,) = measured.findings
    assert (finding.status, finding.where) == (Status.HARNESS, "bench.jsonl")
    assert "bench.jsonl:2: not a record of fault_bench" in finding.summary


def test_what_is_not_exact_has_no_price(tmp_path: pathlib.Path) -> None:
    measured = boot(tmp_path, [{**CALIBRATION, "ticks": 2}, *[BATCH] * 8])
    assert faults.measure(measured) == []
    assert [finding.case for finding in measured.findings] == ["mapped"]


# --- timelines ---

@pytest.mark.parametrize("tick, ticks, exact", (
    (1, 100, True), (1, 95, True), (1, 94, False), (1, 101, False),
    (16, 5, True), (16, 7, True), (16, 4, False), (16, 8, False)))
def test_events_add_up(tmp_path: pathlib.Path, tick: int, ticks: int, exact: bool) -> None:
    """99 instructions, 3 of them perhaps counted twice, and a tick more or less."""
    (tmp_path / "timeline").write_text(PART)
    part = timeline.timed_parts(tmp_path / "timeline")[0]
    batches = [{"ticks": 1, "pages": 3}] + [{"ticks": ticks, "pages": 3}] * 2
    expected: Any = contextlib.nullcontext()
    if not exact:
        expected = pytest.raises(BadInput, match="by the counter")
    with expected:
        faults.timeline_of("mapped", [part] * 2, batches, Fraction(tick))


def test_timeline_of_a_boot(tmp_path: pathlib.Path) -> None:
    timed = boot(tmp_path, [CALIBRATION, *[BATCH] * 8], PART * 2)
    assert len(faults.read_timelines(timed)["mapped"].faults) == 4
    assert timed.findings == []


@pytest.mark.parametrize("part, passed", (
    (PART, ["mapped"]), (PART * 2, ["mapped", "other"]), ("", ["mapped"]),
    (PART.replace("99 mark", "199 mark") * 2, ["mapped"]),
    (PART.replace("guest", "user") * 2, ["mapped"])))
def test_no_timeline_of_a_boot(tmp_path: pathlib.Path, part: str, passed: list[str]) -> None:
    timed = boot(tmp_path, [CALIBRATION, *[BATCH] * 8], part, passed)
    assert faults.read_timelines(timed) == {}
    assert [finding.status for finding in timed.findings] == [Status.HARNESS]


def test_what_failed_says_enough(tmp_path: pathlib.Path) -> None:
    timed = boot(tmp_path, [CALIBRATION, *[BATCH] * 8], PART, wanted=["mapped", "failed"])
    assert (faults.read_timelines(timed), timed.findings) == ({}, [])


# --- the command ---

def test_bench(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [{**BATCH, "pages": pages, "ticks": 95 + pages} for pages in (1, 3) * 4]
    built = boot(tmp_path, [CALIBRATION, *batches], PART * 2)
    install(monkeypatch, "faults", [built.request])
    monkeypatch.setattr("ci.measure.faults.with_timeline", lambda request: request)
    assert faults.bench(Config(results=str(tmp_path), images="elsewhere")) == 0
    document = json.loads((tmp_path / "table.json").read_text())
    assert FakeRun.made.table == tables.render(document)
    assert (tmp_path / "stages.txt").read_text() == tables.stages(document)
    assert document["identity"][0]["release"] == "6.12"
    (machine,) = document["machines"]
    assert machine["prices"] == [{"mode": "mapped", "price": 1, "range": 0, "ratio": None}]
    assert machine["distributions"][0]["faults"] == 4


def test_bench_without_a_figure_has_no_table(tmp_path: pathlib.Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    built = boot(tmp_path, [CALIBRATION])
    install(monkeypatch, "faults", [built.request])
    monkeypatch.setattr("ci.measure.faults.with_timeline", lambda request: request)
    faults.bench(Config(results=str(tmp_path), images="elsewhere"))
    assert FakeRun.made.table == ""
    assert not (tmp_path / "table.json").exists()
