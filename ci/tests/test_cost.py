# SPDX-License-Identifier: GPL-2.0
"""What a revision costs: what is declared, and what is said of counts and rates."""
import pathlib
import random
import types
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from ci.boot import request as request_
from ci.build.cache import Cache
from ci.facts import arch as arch_
from ci.facts.text import BadInput
from ci.judge.check import Check, Status
from ci.measure import scaling
from ci.revision import cost, stats
from ci.revision.cost import Blocks, Rate

RATES = [Rate("fast_minor", 4, 2), Rate("uffd_minor_sharded", 4, 5)]


# --- what is declared ---

def test_those_that_are_declared_exist() -> None:
    cost.check_declared(*cost.load_metrics())
    cost.load_accepted()


@pytest.mark.parametrize("line", ["rate fast_minor 4 0", "rate fast_minor 4 0.0",
                                  "rate fast_minor 0 2", "rate fast_minor 4 ..", "exact"])
def test_bad_lines(tmp_path: pathlib.Path, line: str) -> None:
    (tmp_path / "metrics").write_text(f"{line}\n")
    with pytest.raises(BadInput, match="metrics:1: want .*exact MODE"):
        cost.load_metrics(tmp_path / "metrics")


@pytest.mark.parametrize("exact, rates, says", [
    ([], [], "each rate once"),
    (["mapped"], [RATES[0], Rate("fast_minor", 4, 5)], "each rate once"),
    (["no_such_mode"], [], "no_such_mode"),
    (["mapped"], [Rate("fast_minor", n, 2) for n in range(1, 9)], "declare fewer")])
def test_bad_declarations(exact: list[str], rates: list[Rate], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        cost.check_declared(exact, rates)


# --- exact ---

def rows(series: float, again: float, against: float) -> list[cost.Row]:
    key = ("fast_minor", "median")
    return cost.exact_rows({"series": ({key: series}, {key: again}),
                            "against": ({key: against}, {key: against})})


def statuses(checks: Sequence[Check]) -> list[Status]:
    return [check.status for check in checks]


def test_one_instruction_is_a_change() -> None:
    change, = cost.exact_changes("x86", rows(7188, 7188, 7187), {})
    assert change.status == Status.FAIL
    assert "7187 -> 7188" in change.summary and "more than in" in change.summary
    assert cost.exact_changes("x86", rows(7187, 7187, 7187), {}) == []
    assert statuses(cost.exact_changes("x86", rows(7186, 7186, 7187), {})) == [Status.PASS]


def test_what_does_not_repeat_is_not_judged() -> None:
    found = rows(7188, 7189, 7187)
    assert (found[0]["exact"], found[0]["spread"]) == (False, 1)
    assert cost.exact_changes("x86", found, {}) == []


def test_what_never_happened_before() -> None:
    assert statuses(cost.exact_changes("x86", rows(1, 1, 0), {})) == [Status.FAIL]


def test_the_largest_is_first() -> None:
    both = [{**rows(now, now, 100)[0], "metric": metric}
            for metric, now in (("median", 101), ("q90", 103), ("q99", 102))]
    found = [check.summary.partition(" in")[0] for check in cost.exact_changes("x86", both, {})]
    assert found == [f"fast_minor: 100 -> {now}" for now in (103, 102, 101)]


def test_many_changes_are_one_finding() -> None:
    fail, known, more, passes = (Check(status, text) for status, text in (
        (Status.FAIL, "a"), (Status.KNOWN, "b"), (Status.FAIL, "c"), (Status.PASS, "d")))
    assert cost.as_one([fail, known, more, passes]) == [
        Check(Status.FAIL, "a; 1 more in the table"), known, passes]
    assert cost.as_one([]) == []


def test_an_accepted_change_is_that_one_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "accepted"
    path.write_text("x86 fast_minor median 7187 7188 | the test of the flag\n")
    accepted = cost.load_accepted(path)
    mine = rows(7188, 7188, 7187)
    known, = cost.exact_changes("x86", mine, accepted)
    assert known.status == Status.KNOWN and known.summary.endswith("accepted: the test of the flag")
    for arch, other in (("x86", rows(7189, 7189, 7187)), ("x86", rows(7188, 7188, 7186)),
                        ("arm64", mine)):
        assert statuses(cost.exact_changes(arch, other, accepted)) == [Status.FAIL]


# --- rates ---

def make_boot(*points: tuple[str, float], findings: Sequence[Check] = ()) -> Any:
    return types.SimpleNamespace(directory="d", findings=list(findings), points=[
        types.SimpleNamespace(mode=mode, rate=rate) for mode, rate in points])


@pytest.fixture(autouse=True)
def points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "points_of", lambda boot: boot.points)
    monkeypatch.setattr(request_, "identity", lambda request: request)


def test_a_boot_has_both_parts() -> None:
    with pytest.raises(cost.NotMeasured, match="1 rates"):
        cost.rate_of(make_boot(("fast_minor", 1)), RATES[0])
    # as many pages in each
    assert cost.rate_of(make_boot(("fast_minor", 1), ("fast_minor", 3)), RATES[0]) == 1.5


class Machine:
    """States whose boots drift, within a block as well; both parts of one differ."""

    def __init__(self, cache: Cache):
        self.cache, self.number, self.random = cache, 0, random.Random(5)
        self.speed: dict[str, dict[str, float]] = {}
        self.findings: dict[str, list[Check]] = {}
        self.fixed: dict[int, Iterator[float]] = {}   # rates of the boots of a block

    def measured(self, arch: Any, letter: str, kind: str, modes: list[str], vcpus: int) -> Any:
        return [letter, vcpus, modes]

    def measure(self, arch: Any, letter: str, kind: str, modes: list[str], vcpus: int,
                number: int) -> Any:
        self.number += 1
        noise = {mode: 100 * (1 + 0.001 * self.number + self.random.gauss(0, 0.004))
                 * self.speed.get(mode, {}).get(letter, 1) for mode in modes}
        rates = dict.fromkeys(modes, next(self.fixed[number])) if self.fixed else noise
        same = 0 if self.fixed else 0.01
        parts = [(mode, rate * part) for mode, rate in rates.items()
                 for part in (1 - same, 1 + same)]
        return make_boot(*parts, findings=self.findings.get(letter, []))

    def compare(self, rates: Sequence[Rate] = RATES) -> cost.Row:
        """As in another run: the boots of this one are counted."""
        self.number = 0
        states: Any = self
        return Blocks(states, arch_.load("x86"), {"A": "A", "B": "B"}, rates).measure()

    def changes(self, rates: Sequence[Rate] = RATES, **speed: dict[str, float]) -> list[Any]:
        self.random, self.speed = random.Random(5), speed
        found = self.compare(rates)
        return [(c.status, c.summary.split(",")[0], c.summary.split(": ")[-1])
                for c in cost.rate_changes(found["rows"], found["given_up"])]


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Machine:
    return Machine(Cache(tmp_path))


SLOWER = [(Status.FAIL, "fast_minor", "slower"),
          (Status.PASS, "uffd_minor_sharded", "within threshold")]


def test_which_is_slower(machine: Machine) -> None:
    assert machine.changes(fast_minor={"B": 0.96}) == SLOWER
    assert machine.number == 4 * stats.BLOCKS


def test_which_is_faster(machine: Machine) -> None:
    assert machine.changes(fast_minor={"A": 0.96}, uffd_minor_sharded={"B": 0.9}) == [
        (Status.PASS, "fast_minor", "faster"), (Status.FAIL, "uffd_minor_sharded", "slower")]


def test_another_order_of_what_is_declared(machine: Machine) -> None:
    machine.changes(fast_minor={"B": 0.96})
    assert machine.changes(RATES[::-1]) == SLOWER[::-1]
    assert machine.number == 0


def test_what_a_kernel_does_wrong_meanwhile_is_its_verdict(machine: Machine) -> None:
    machine.findings["B"] = [Check(Status.SPLAT, "WARNING", where="console.log:1")]
    with pytest.raises(cost.NotMeasured, match="WARNING") as raised:
        machine.compare()
    assert raised.value.status == Status.SPLAT


def test_what_could_not_have_been_seen_is_not_checked() -> None:
    row = {"name": "x", "verdict": "inconclusive", "change": 1, "low": 0, "high": 2, "p": 0.4}
    assert statuses(cost.rate_changes([row])) == [Status.NOT_CHECKED]


DISTURBED: list[stats.Block] = [(100, 97, 97, 90 + n / 10) for n in range(stats.BLOCKS)]
QUIET: list[stats.Block] = [(100 + n % 2, 100, 100, 101 - n % 2) for n in range(stats.BLOCKS)]


def attempt(machine: Machine, blocks: Sequence[Sequence[float]]) -> tuple[list[Check], cost.Row]:
    """Measured now, if it is measured: rates that are so."""
    machine.fixed = {n: iter(block) for n, block in enumerate(blocks, 1)}
    found = machine.compare(RATES[:1])
    return cost.rate_changes(found["rows"], found["given_up"]), found


def test_a_control_that_flags_makes_all_of_it_unusable() -> None:
    table = cost.rate_rows({RATES[0]: DISTURBED, RATES[1]: QUIET})
    assert not cost.usable(table)
    change, = cost.rate_changes(table)
    assert change.status == Status.HARNESS and "it measures once more" in change.summary


def test_the_second_measurement_says_that_it_is_one(machine: Machine) -> None:
    checks, found = attempt(machine, DISTURBED)
    assert (statuses(checks), machine.number, found["given_up"]) == ([Status.HARNESS], 32, [])
    assert "it measures once more" in checks[0].summary
    again: tuple[tuple[int, list[stats.Block]], ...] = ((32, QUIET), (0, DISTURBED))
    for measured, blocks in again:
        checks, found = attempt(machine, blocks)
        assert (statuses(checks), machine.number) == ([Status.PASS], measured)
        assert len(found["given_up"]) == 1 and found["measured_by"]


def test_two_measurements_are_all_there_are(machine: Machine) -> None:
    attempt(machine, DISTURBED)
    for measured in (32, 0, 0):
        checks, found = attempt(machine, DISTURBED)
        assert (statuses(checks), machine.number) == ([Status.HARNESS], measured)
        assert "2 times in a row" in checks[0].summary
        assert not cost.usable(found["rows"])
