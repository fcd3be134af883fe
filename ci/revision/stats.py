# SPDX-License-Identifier: GPL-2.0
"""Is B slower than A?  Boots in blocks of A B B A.

The unit is a block: what differs within a boot, or drifts from block to block, is no evidence.
The test assumes nothing of the blocks' distribution.  The interval, and the smallest change
that would have been seen, take it to be normal: they are rough where a boot is far off.
"""
import dataclasses
import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
from scipy import optimize
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

ORDER = "ABBA"
BLOCKS = 8
ALPHA = 0.05
POWER = 0.9   # of a change that is said to have been visible
Block = Sequence[float]   # a, b, b, a


def sign_flip_p(differences: Any) -> Any:
    """Two-sided p of the mean of paired differences being zero; of a matrix, by row.

    Exact: of all 2^n ways to flip their signs, those with a sum as large.
    """
    values = numpy.asarray(differences, float)
    pairs = values.shape[-1]
    signs = 1 - 2 * numpy.indices([2] * pairs).reshape(pairs, -1)
    sums = numpy.abs(values @ signs)
    observed = sums[..., :1]   # The first way flips none.
    return (sums >= observed * (1 - 1e-9)).mean(axis=-1)


def holm(values: Sequence[float]) -> list[float]:
    """Adjusted p-values of metrics that were declared in advance."""
    return list(map(float, multipletests(values, alpha=ALPHA, method="holm")[1])) if values else []


def differences(blocks: Sequence[Block]) -> list[float]:
    """log(B / A) of each block: a change in per cent, nearly."""
    return [math.log((b1 + b2) / (a1 + a2)) for a1, b1, b2, a2 in blocks]


def control(blocks: Sequence[Block]) -> list[float]:
    """The same of A against A."""
    return [math.log(a2 / a1) for a1, _, _, a2 in blocks]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): 95 % of Student's t of their mean."""
    mean, error = statistics.fmean(values), scipy_stats.sem(values)
    if not error:
        return mean, mean, mean
    low, high = scipy_stats.t.interval(1 - ALPHA, len(values) - 1, loc=mean, scale=error)
    return mean, float(low), float(high)


def detectable(values: Sequence[float], metrics: int, least: float) -> float:
    """The smallest change that would have been found, mostly (POWER), with such a spread.

    It has to be significant, and the measured change no less than @least.
    """
    margin = scipy_stats.t.ppf(POWER, len(values) - 1) * scipy_stats.sem(values)
    return max(effect_size(len(values), metrics) * statistics.stdev(values),
               math.log1p(least / 100) + float(margin))


@functools.cache
def effect_size(blocks: int, metrics: int) -> float:
    """In standard deviations of normal differences, by simulation of the test itself.

    Its p comes in steps: with few blocks it finds less than a t-test, whose power is known.
    """
    noise = numpy.random.default_rng(1).standard_normal((4000, blocks))

    def excess(effect: float) -> float:
        return float((sign_flip_p(noise + effect) < ALPHA / metrics).mean()) - POWER
    return float(optimize.bisect(excess, 0, 10, xtol=1e-3))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """All changes in per cent of the rate: negative is slower."""
    name: str
    blocks: int
    change: float
    low: float
    high: float
    p: float            # after Holm
    control_p: float    # of A against A, after Holm
    smallest: float     # that would have been seen
    least: float        # that matters, as declared

    @property
    def usable(self) -> bool:
        return self.control_p >= ALPHA

    @property
    def verdict(self) -> str:
        if not self.usable:
            return "not usable"
        if self.p < ALPHA and abs(self.change) >= self.least:
            return "slower" if self.change < 0 else "faster"
        ruled_out = -self.least < self.low and self.high < self.least
        return "within threshold" if ruled_out else "inconclusive"


def compare(measured: Mapping[str, Sequence[Block]], least: Mapping[str, float]) -> list[Outcome]:
    """least: per cent that matters."""
    changes = {name: differences(blocks) for name, blocks in measured.items()}
    adjusted = holm([sign_flip_p(values) for values in changes.values()])
    controls = holm([sign_flip_p(control(blocks)) for blocks in measured.values()])
    found = []
    for (name, values), p, control_p in zip(changes.items(), adjusted, controls):
        logs = (*interval(values), detectable(values, len(measured), least[name]))
        change, low, high, smallest = (100 * math.expm1(value) for value in logs)
        found.append(Outcome(name, len(values), change, low, high, p, control_p, smallest,
                             least[name]))
    return found
