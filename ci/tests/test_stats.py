# SPDX-License-Identifier: GPL-2.0
"""The statistics, against published answers, and by what they find in simulated boots."""
import functools
import math
import random
import statistics

import pytest

from ci.revision import stats
from ci.revision.stats import Block, Outcome

# Darwin's 15 pairs of maize: Fisher, The Design of Experiments (1935)
DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


def test_published_answers() -> None:
    # Section 21: 1726 of the 2^15 ways have a sum as large, on both sides.
    assert stats.sign_flip_p(DARWIN) == pytest.approx(1726 / 32768, abs=1e-9)
    # Section 17: Student's t is 2.148, its two-sided p 0.0497.
    mean, low, high = stats.interval(DARWIN)
    assert mean == pytest.approx(20.933, abs=1e-3)
    assert 0 < low < 0.1 and 41.7 < high < 41.9
    # Holm (1979), by hand: 0.01 * 3, 0.02 * 2, 0.04 * 1, never smaller than the one before
    assert stats.holm([0.01, 0.04, 0.02]) == pytest.approx([0.03, 0.04, 0.04])


def test_five_blocks_can_never_say_so() -> None:
    assert stats.sign_flip_p([1, 2, 3, 4, 5]) == 2 / 32
    assert stats.sign_flip_p([1, 2, 3, 4, 5, 6, 7, 8]) == 2 / 256


def test_a_drift_within_a_block_is_no_difference() -> None:
    assert stats.differences([(100, 101, 102, 103)]) == [0]


def test_a_difference_of_nothing() -> None:
    assert stats.sign_flip_p([0.0] * 8) == 1.0


def blocks(generator: random.Random, effect: float) -> list[Block]:
    """Boots that differ by 0.8 % and a drift: what make scale shows at 4 vCPUs."""
    drift = generator.gauss(0, 0.01)
    return [tuple(100 * (1 + drift * n + generator.gauss(0, 0.008))
                  * (effect if letter == "B" else 1) for letter in stats.ORDER)
            for n in range(stats.BLOCKS)]


@functools.cache
def trials(effect: float, count: int = 200) -> list[Outcome]:
    generator = random.Random(7)
    # As declared: several metrics at once, under Holm
    return [stats.compare({"changed": blocks(generator, effect), "not": blocks(generator, 1)},
                          {"changed": 2, "not": 5})[0] for _ in range(count)]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """statsmodels collects garbage at each call, nine tenths of the time here."""
    monkeypatch.setattr("gc.collect", lambda: 0)


def test_false_alarms(quick: None) -> None:
    found = trials(1)
    assert sum(o.verdict in ("slower", "faster") for o in found) <= 10
    # and not thanks to the minimum alone
    assert sum(o.p < stats.ALPHA for o in found) <= 10
    assert sum(not o.usable for o in found) <= 20


def test_three_per_cent_are_found(quick: None) -> None:
    found = [o.verdict for o in trials(0.97)]
    assert found.count("slower") >= 180
    assert found.count("faster") == 0


def test_what_would_have_been_seen_is_no_less_than_matters(quick: None) -> None:
    assert stats.detectable([0.0001 * n for n in range(8)], 1, 5) > math.log1p(0.05)
    # and is seen: planted, in as many trials as promised, within what 200 of them can tell
    smallest = statistics.median(o.smallest for o in trials(1))
    seen = [o.verdict for o in trials(1 - smallest / 100)].count("slower")
    assert 172 <= seen <= 190, (smallest, seen)


def test_what_could_not_have_been_seen_is_not_no_change() -> None:
    generator = random.Random(3)
    noisy = [tuple(100 * (1 + generator.gauss(0, 0.1)) for _ in stats.ORDER)
             for _ in range(stats.BLOCKS)]
    outcome, = stats.compare({"x": noisy}, {"x": 5})
    assert outcome.verdict == "inconclusive"


@pytest.mark.parametrize("values, verdict", [
    ({}, "within threshold"),
    ({"low": -2.5}, "inconclusive"),
    ({"p": 0.4, "low": -0.5, "high": 2.1}, "inconclusive"),
    ({"change": -2, "low": -2.5}, "slower"),
    ({"change": 2, "p": 0.2, "low": 1, "high": 3}, "inconclusive"),
    ({"change": 2}, "faster"),
    ({"control_p": 0.01}, "not usable")])
def test_the_interval_says_what_is_ruled_out(values: dict[str, float], verdict: str) -> None:
    usual = {"change": -1, "low": -1.5, "high": -0.5, "p": 0.01, "control_p": 1, "smallest": 3,
             "least": 2}
    assert Outcome("x", 8, **{**usual, **values}).verdict == verdict
