# SPDX-License-Identifier: GPL-2.0
"""What is said of the series as a whole."""
import pathlib
import types
from typing import Any

import pytest

from ci.boot.ktap import Result
from ci.config import Config
from ci.facts import arch as arch_
from ci.facts.matrix import Cell
from ci.facts.text import BadInput
from ci.judge.check import Check, Status
from ci.judge.results import Boot
from ci.judge.verdict import SERIES_IS_MISSING
from ci.revision import cost
from ci.revision.states import State
from ci.revision.whole import Whole
from ci.tests.conftest import make_request

X86 = arch_.load("x86")
CELL = Cell("x86", "npt", "", "always", "")
NPT = {"arch": "x86", "mode": "npt", "config": ""}


class Said(Whole):
    """What it says is kept; states are those that are given."""

    def __init__(self, config: Config = Config(), **states: Any):
        patches = [types.SimpleNamespace(number=n, files=[name]) for n, name in (
            (1, "arch/x86/kvm/x86.c"), (2, "arch/arm64/kvm/arm.c"), (3, "virt/kvm/kvm_main.c"))]
        self.checks: list[Check] = []
        self.places: list[int] = []
        super().__init__(config, types.SimpleNamespace(patches=patches),  # type: ignore[arg-type]
                         types.SimpleNamespace(**states), self.keep, {})  # type: ignore[arg-type]

    def keep(self, tool: str, checks: list[Check], patch: int = 0, arch: str = "") -> None:
        self.checks += checks or [Check(Status.PASS)]
        self.places.append(patch)

    @property
    def statuses(self) -> list[Status]:
        return [check.status for check in self.checks]


def make_state(results: dict[str, str], *findings: Check) -> State:
    found = [Result(name, status, "", n, "") for n, (name, status) in enumerate(results.items())]
    outcome: Any = types.SimpleNamespace(stream=types.SimpleNamespace(results=found))
    return State(boot=Boot(make_request(), pathlib.Path("d"), outcome, list(findings)))


# --- cells ---

FAILS = Check(Status.FAIL, "exit=1", "a", "tests.ktap:1")
MISSING = Check(Status.SKIP, f"must not skip here: {SERIES_IS_MISSING}", "a", "tests.ktap:1")
KNOWN = Check(Status.KNOWN, "a reason", "a", "tests.ktap:1")


@pytest.mark.parametrize("base, series, status, checks", [
    (make_state({"a": "pass"}), State("the kernel does not build"), "fail", [Status.FAIL]),
    (make_state({"a": "skip"}), make_state({"a": "pass"}), "pass", [Status.PASS]),
    # A case that must run and skips is a finding.
    (make_state({"a": "skip"}), make_state({"a": "skip"}, MISSING), "skip", [Status.SKIP]),
    (make_state({"a": "pass"}), make_state({"a": "fail"}, FAILS), "fail", [Status.FAIL]),
    (make_state({"a": "fail"}), make_state({"a": "fail"}, FAILS), "fail", [Status.KNOWN]),
    (State("no"), make_state({"a": "fail"}, FAILS), "fail", [Status.FAIL]),
    (make_state({"a": "fail"}), make_state({"a": "fail"}, KNOWN), "known",
     [Status.KNOWN, Status.PASS])])
def test_a_cell(base: State, series: State, status: str, checks: list[Status]) -> None:
    whole = Said(state=lambda arch, place, mode, config: series if place else base)
    row = whole.cell(CELL, X86)
    assert (row["status"], {key: row[key] for key in NPT}) == (status, NPT)
    assert whole.statuses == checks


def test_a_cell_says_what_was_before() -> None:
    states = {0: make_state({"a": "pass", "b": "fail"}),
              3: make_state({"a": "fail", "b": "pass"}, FAILS),
              "against": make_state({"a": "fail", "b": "pass"})}
    whole = Said(Config(against="x"), state=lambda arch, place, mode, config: states[place])
    row = whole.cell(CELL, X86)
    assert (row["base"], row["against"]) == (["a new", "b fixed"], ["a same"])
    assert (row["pass"], row["failed"]) == (1, 1)
    assert whole.checks == [Check(Status.FAIL, "exit=1; new against the base; same against the "
                                  "earlier revision", "a", "d/tests.ktap:1")]


def test_cells_that_are_left_out_say_why() -> None:
    wanted: list[Any] = []
    whole = Said(Config(arch=("x86",)), prepare=wanted.extend,
                 state=lambda *_: make_state({"a": "pass"}))
    left = [row for row in whole.matrix() if row["status"] == "not-checked"]
    assert {row["summary"] for row in left} >= {"slow: MATRIX=all"}
    assert (X86, 0, "npt", "") in wanted and (X86, 3, "npt", "") in wanted
    everything = Said(Config(arch=("x86",), matrix="all"), prepare=wanted.extend,
                      state=lambda *_: make_state({"a": "pass"}))
    assert len([r for r in everything.matrix() if r["status"] == "not-checked"]) < len(left)


# --- what it costs ---

@pytest.fixture(autouse=True)
def counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A boot is its count."""
    monkeypatch.setattr(cost, "values_of", lambda boot: {("fast_minor", "median"): boot})
    monkeypatch.setattr(cost, "load_accepted", lambda: {})


def exact(config: Config, moves: list[Any], **boots: tuple[int, int]) -> tuple[Said, Any]:
    """boots: two counts of each end."""
    names = {0: "base", 3: "series", "against": "against"}
    whole = Said(config, tree=types.SimpleNamespace(moved=lambda: moves),
                 measure=lambda arch, place, kind, modes, again: boots[names[place]][again])
    return whole, whole.exact(X86, ["fast_minor"])


AGAINST = Config(against="x")


def test_exact_counts() -> None:
    whole, _ = exact(AGAINST, [], series=(7188, 7188), base=(7180, 7180), against=(7187, 7187))
    against, base = whole.checks
    assert against.status == base.status == Status.FAIL
    assert "7187 -> 7188" in against.summary and "the earlier revision" in against.summary
    assert "7180 -> 7188" in base.summary and "the base" in base.summary
    whole, _ = exact(AGAINST, [], series=(7187, 7187), base=(7187, 7187), against=(7187, 7187))
    assert whole.statuses == [Status.PASS] * 2


@pytest.mark.parametrize("name", ["series", "base", "against"])
def test_exact_counts_that_do_not_repeat(name: str) -> None:
    boots = dict.fromkeys(("series", "base", "against"), (7188, 7188)) | {name: (7188, 7190)}
    whole, rows = exact(AGAINST, [], **boots)
    assert whole.statuses[0] == Status.HARNESS
    assert "two boots of one image differ in median" in whole.checks[0].summary
    assert (rows[0]["spread"], rows[0]["exact"]) == (2, False)


@pytest.mark.parametrize("moves, patch, words", [
    ([(1, "changed", ""), (2, "changed", ""), (3, "same", "")], 1, ""),   # 2 is arm64's.
    ([(1, "changed", ""), (3, "new", "")], 0, "caused by one of patches 1, 3"),
    ([(1, "same", ""), (None, "dropped", ""), (3, "same", "")], 0, "caused by one of patches 1, 3"),
    ([(2, "changed", "")], 0, "")])
def test_at_whose_door_a_change_is_laid(moves: list[Any], patch: int, words: str) -> None:
    config = Config(against="x", patches="1")   # some patches: the base is not asked
    whole, rows = exact(config, moves, series=(8, 8), against=(7, 7))
    assert (whole.places, whole.statuses, "base" in rows[0]) == ([patch], [Status.FAIL], False)
    assert whole.checks[0].summary.endswith(words or "the earlier revision")


def test_rates_that_need_no_boot() -> None:
    whole = Said(state=lambda *_: State())
    assert "AGAINST=" in whole.rates(X86, [])["why"]
    same = Said(AGAINST, state=lambda *_: State(images=("1", "2")))
    assert "same file" in same.rates(X86, [])["why"]


def test_what_cannot_be_measured_is_a_finding() -> None:
    def fail(arch: Any) -> None:
        boot: Any = types.SimpleNamespace(directory="d", findings=[Check(Status.SPLAT, "WARNING")])
        raise BadInput("no figure") if arch == X86 else cost.NotMeasured(boot, "")
    whole = Said()
    whole.each("rates", fail)
    assert whole.parts == {"rates": {}}
    assert [(c.status, c.summary) for c in whole.checks] == [
        (Status.SPLAT, "d: WARNING"), (Status.HARNESS, "no figure")]


@pytest.mark.parametrize("knobs, parts", [
    ({}, ["matrix", "exact", "rates"]), ({"against": "x"}, ["matrix", "exact", "rates"]),
    ({"patches": "1"}, []), ({"patches": "1", "against": "x"}, ["exact"])])
def test_of_some_patches_there_is_less(monkeypatch: pytest.MonkeyPatch, knobs: dict[str, str],
                                       parts: list[str]) -> None:
    whole = Said(Config(**knobs))   # type: ignore[arg-type]
    for name in ("matrix", "exact", "rates"):
        monkeypatch.setattr(whole, name, lambda *_: [])
    whole.judge()
    assert list(whole.parts) == parts
