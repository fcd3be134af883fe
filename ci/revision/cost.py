# SPDX-License-Identifier: GPL-2.0
"""What a revision costs, against the base and against the revision before it.

Exact metrics come from two boots of each image, with other random numbers.  One that does not
repeat to the last instruction is a finding about the method, and says nothing of the series.
Rates come from boots in ABBA blocks.  ci/metrics declares both; ci/accepted has what is meant.
"""
import dataclasses
import pathlib
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ci.boot import request as request_
from ci.build.git import repository
from ci.facts import cases
from ci.facts.arch import Arch
from ci.facts.text import ROOT, BadInput, rows
from ci.judge.check import Check, Status
from ci.judge.results import Boot
from ci.measure import faults, scaling, timeline
from ci.revision import stats
from ci.revision.states import Place, States

# How often rates are measured if A does not agree with A
ATTEMPTS = 2
# Of single faults, in instructions.  About one in 31 is dear, by a refill, and has its own: a
# change of fewer than one in a hundred is not seen.
QUANTILES = {"median": 0.5, "q90": 0.9, "q99": 0.99}
METRIC = re.compile(r"exact\s+(?P<mode>\w+)|rate\s+(?P<rate>\w+)\s+(?P<vcpus>[1-9]\d*)\s+"
                    r"(?P<least>\d*\.?\d*[1-9]\d*)")
ACCEPTED = re.compile(rf"(\w+)\s+(\w+)\s+({'|'.join(QUANTILES)}|exits)\s+(\S+)\s+(\S+)\s+\|\s+"
                      r"(\S.*)")
WORDS = {"against": "the earlier revision", "base": "the base"}
VERDICTS = {"slower": Status.FAIL, "inconclusive": Status.NOT_CHECKED}
Values = dict[tuple[str, str], float]   # by mode and metric
Row = dict[str, Any]                    # as revision.json has it


@dataclasses.dataclass(frozen=True)
class Rate:
    mode: str
    vcpus: int
    least: float   # per cent

    @property
    def name(self) -> str:
        return f"{self.mode}, {self.vcpus} vCPUs"


class NotMeasured(BadInput):
    """A boot without figures.  What the kernel does wrong while it is measured is its status."""

    def __init__(self, boot: Boot, otherwise: str):
        found = boot.findings[0] if boot.findings else Check(Status.HARNESS, otherwise)
        super().__init__(f"{boot.directory}: {found.summary}")
        self.status = found.status


# --- what is declared ---

def parsed(path: pathlib.Path, pattern: re.Pattern[str], what: str) -> Iterator[re.Match[str]]:
    for where, line in rows(path):
        match = pattern.fullmatch(line.strip())
        if not match:
            raise BadInput(f"{where}: want {what}; got: {line}")
        yield match


def load_metrics(path: pathlib.Path = ROOT / "ci" / "metrics") -> tuple[list[str], list[Rate]]:
    """(modes of exact metrics, rates)"""
    found = list(parsed(path, METRIC, "\"exact MODE\" or \"rate MODE vCPUs per-cent\""))
    return ([m["mode"] for m in found if m["mode"]],
            [Rate(m["rate"], int(m["vcpus"]), float(m["least"])) for m in found if m["rate"]])


def load_accepted(path: pathlib.Path = ROOT / "ci" / "accepted") -> dict[tuple[str, ...], str]:
    """{(architecture, mode, metric, before, after): reason}"""
    what = "architecture, mode, metric, before, after | reason"
    return {match.groups()[:5]: match[6] for match in parsed(path, ACCEPTED, what)}


def check_declared(exact: Sequence[str], rates: Sequence[Rate]) -> None:
    # With n blocks p is 2/2^n or more, and Holm multiplies it.
    if len(rates) * 2 / 2 ** stats.BLOCKS >= stats.ALPHA:
        raise BadInput(f"ci/metrics: with {len(rates)} rates, {stats.BLOCKS} blocks cannot reach "
                       f"p < {stats.ALPHA} after Holm; declare fewer")
    if not exact or len({rate.name for rate in rates}) < len(rates):
        raise BadInput("ci/metrics: want at least one \"exact\" line, and each rate once")
    for kind, names in (("bench", exact), ("scale", [rate.mode for rate in rates])):
        unknown = set(names) - {case.name for case in cases.load(cases.FILES[kind])}
        if unknown:
            raise BadInput(f"ci/metrics: no such mode in {cases.FILES[kind]}: "
                           f"{' '.join(sorted(unknown))}")


# --- exact ---

def values_of(boot: Boot) -> Values:
    """Of a boot of make bench."""
    prices, timelines = faults.measure(boot), faults.read_timelines(boot)
    if boot.findings:
        raise NotMeasured(boot, "")
    modes, found = faults.read_numbers(boot.directory / "bench.jsonl"), {}
    for mode in (row.mode for row in prices):
        last = modes[mode][1][-1]
        found[mode, "exits"] = last["exits"] / last["pages"]
        if mode not in timelines:
            raise BadInput(f"{boot.directory}: {mode} has no timeline")
        totals = [fault.total for fault in timelines[mode].faults]
        for name, share in QUANTILES.items():
            found[mode, name] = float(timeline.quantile(totals, share))
    return found


def exact_rows(measured: Mapping[str, Sequence[Values]]) -> list[Row]:
    """One a metric; measured: two boots each of "series", "base", "against"."""
    found = []
    for key in measured["series"][0]:
        pairs = {name: [boot.get(key) for boot in boots] for name, boots in measured.items()}
        spread = max((abs(first - again) for first, again in pairs.values()
                      if first is not None and again is not None), default=0)
        found.append({"mode": key[0], "metric": key[1], "spread": spread,
                      "exact": all(first == again for first, again in pairs.values()),
                      **{name: first for name, (first, _) in pairs.items() if first is not None}})
    return found


def text_of(value: float) -> str:
    """In full: what differs has to look different."""
    return f"{value:.12g}"


def unit(metric: str) -> str:
    return f"instructions of a fault, {metric}" if metric in QUANTILES else f"{metric} of a fault"


def exact_changes(arch: str, exact: Sequence[Row], accepted: Mapping[tuple[str, ...], str],
                  other: str = "against") -> list[Check]:
    """Rows that differ from the @other's, the largest change first."""
    found = []
    for row in exact:
        before, now = row.get(other), row["series"]
        if not row["exact"] or before is None or before == now:
            continue
        share = (now - before) / before if before else 1.0
        change = text_of(before), text_of(now)
        reason = accepted.get((arch, row["mode"], row["metric"], *change))
        text = (f"{row['mode']}: {' -> '.join(change)} {unit(row['metric'])}, exact count "
                f"({100 * share:+.2f} %), {'more' if now > before else 'fewer'} than in "
                f"{WORDS[other]}{f'; accepted: {reason}' if reason else ''}")
        status = Status.KNOWN if reason else Status.FAIL if now > before else Status.PASS
        found.append((abs(share), Check(status, text)))
    return [check for _, check in sorted(found, key=lambda pair: pair[0], reverse=True)]


def as_one(changes: Sequence[Check], suspects: Sequence[int] = ()) -> list[Check]:
    """What costs more as one finding, which names the largest, and the patches it may be of."""
    dearer = [check for check in changes if check.status == Status.FAIL]
    more = f"; {len(dearer) - 1} more in the table" if len(dearer) > 1 else ""
    if len(suspects) > 1:
        more += f"; caused by one of patches {', '.join(map(str, suspects))}"
    rest = [check for check in changes if check.status != Status.FAIL]
    return [Check(Status.FAIL, check.summary + more) for check in dearer[:1]] + rest


# --- rates ---

def rate_of(boot: Boot, rate: Rate) -> float:
    """Of all timed parts together."""
    rates = [point.rate for point in scaling.points_of(boot) if point.mode == rate.mode]
    if boot.findings or len(rates) != len(scaling.QUANTA):
        raise NotMeasured(boot, f"{len(rates)} rates of {rate.mode}")
    return statistics.harmonic_mean(rates)


class Blocks:
    """Boots of two kernels, A and B, in blocks; each block is measured in one go, and kept."""

    def __init__(self, states: States, arch: Arch, places: Mapping[str, Place],
                 rates: Sequence[Rate]):
        """@places: of A and of B."""
        self.states, self.arch, self.places, self.rates = states, arch, places, rates
        self.inputs = [[dataclasses.asdict(rate), self.inputs_of(rate.vcpus, [rate.mode])]
                       for rate in rates]
        # Rows of each measurement whose control flagged, in order
        self.given_up: list[list[Row]] = states.cache.get("given-up", self.inputs) or []
        self.measured_by: set[str] = set()   # revisions of this repository

    def inputs_of(self, vcpus: int, modes: list[str]) -> list[Any]:
        boots = [request_.identity(self.states.measured(self.arch, place, "scale", modes, vcpus))
                 for place in self.places.values()]
        return [boots, stats.ORDER, "by mode"]

    def measure(self) -> Row:
        """As revision.json has it."""
        found: dict[Rate, list[stats.Block]] = {rate: [] for rate in self.rates}
        for number in range(1, stats.BLOCKS + 1):
            for vcpus in sorted({rate.vcpus for rate in self.rates}):
                mine = [rate for rate in self.rates if rate.vcpus == vcpus]
                values = self.block(vcpus, mine, number)
                for rate in mine:
                    found[rate].append(values[rate.mode])
        table = rate_rows(found)
        if not usable(table) and len(self.given_up) + 1 < ATTEMPTS:  # the disturbance may be gone
            self.states.cache.put("given-up", self.inputs, [*self.given_up, table])
        return {"rows": table, "given_up": self.given_up, "measured_by": sorted(self.measured_by),
                "blocks": {rate.name: blocks for rate, blocks in found.items()}}

    def block(self, vcpus: int, rates: Sequence[Rate], number: int) -> dict[str, Any]:
        """{mode: [a, b, b, a]}: all rates with so many vCPUs are of the same boots."""
        modes = sorted(rate.mode for rate in rates)

        def boots() -> dict[str, Any]:
            print(f"    {self.arch.name}, block {number}, {vcpus} vCPUs", flush=True)
            done = [self.states.measure(self.arch, self.places[letter], "scale", modes, vcpus,
                                        number) for letter in stats.ORDER]
            return {"rates": {rate.mode: [rate_of(boot, rate) for boot in done] for rate in rates},
                    "repository": repository()}
        inputs = [self.inputs_of(vcpus, modes), len(self.given_up), number]
        kept = self.states.cache.once("blocks", inputs, boots)
        self.measured_by.add(kept["repository"])
        return kept["rates"]


def rate_rows(found: Mapping[Rate, Sequence[stats.Block]]) -> list[Row]:
    """One a rate; of each no more than its control, if A does not agree with A in one of them."""
    outcomes = stats.compare({rate.name: blocks for rate, blocks in found.items()},
                             {rate.name: rate.least for rate in found})
    if all(o.usable for o in outcomes):
        return [{**dataclasses.asdict(o), "verdict": o.verdict} for o in outcomes]
    return [{"name": o.name, "blocks": o.blocks, "control_p": o.control_p,
             "verdict": "not usable"} for o in outcomes]


def usable(rates: Sequence[Row]) -> bool:
    return all(row["verdict"] != "not usable" for row in rates)


def rate_changes(rates: Sequence[Row], given_up: Sequence[Sequence[Row]] = ()) -> list[Check]:
    """given_up: rows of measurements before this one, whose control flagged."""
    if not usable(rates):
        more = ("run make revision again; it measures once more" if len(given_up) + 1 < ATTEMPTS
                else f"{ATTEMPTS} times in a row: find out why")
        return [Check(Status.HARNESS, "rates are not usable: the earlier revision differs from "
                      f"itself (A/A control, p = {control_p(rates):.3f}); {more}")]
    return [Check(VERDICTS.get(row["verdict"], Status.PASS),
                  f"{row['name']}, rate in the lockstep model: {row['change']:+.2f} % "
                  f"[{row['low']:+.2f}, {row['high']:+.2f}], p = {row['p']:.3f}: {row['verdict']}")
            for row in rates]


def control_p(rates: Sequence[Row]) -> float:
    return min(row["control_p"] for row in rates)
