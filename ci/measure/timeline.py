# SPDX-License-Identifier: GPL-2.0
"""The events of single faults, which bench/lockstep/timeline.c wrote down.

A fault lasts from the guest's access to a page to its access to the next one, a stage from an
event to the next one.  A timer tick or the refill of an allocator is part of the stage that it
falls into, hence medians beside means.
"""
import collections
import dataclasses
import functools
import itertools
import math
import pathlib
import statistics
from collections.abc import Iterable

from ci.facts.text import ROOT, BadInput, rows
from ci.measure.symbols import Symbols
from ci.measure.tables import Row

POINTS, EVENTS = ROOT / "bench" / "points", ROOT / "ci" / "measure" / "events"
QUANTILES = ("min", "median", "p99", "max")

Event = tuple[int, str]   # instructions since the mark, name


@functools.cache
def load_events(path: pathlib.Path = EVENTS) -> dict[str, tuple[str, str]]:
    """{event: (its kind in the picture of the stages, what is executed from it on)}"""
    events = {}
    for where, line in rows(path):
        fields = [field.strip() for field in line.split("|")]
        if len(fields) != 3:
            raise BadInput(f"{where}: want event | kind | words")
        events[fields[0]] = fields[1], fields[2]
    return events


def kinds() -> list[str]:
    return list(dict.fromkeys(kind for kind, _ in load_events().values()))


def load_points(arch: str, mode: str, path: pathlib.Path = POINTS) -> dict[str, list[str]]:
    """{name: functions} for a mode of an architecture; empty if it has no "enter"."""
    points = {}
    for where, line in rows(path):
        fields = line.split()
        if len(fields) != 3:
            raise BadInput(f"{where}: want name, architecture or all, function")
        if fields[1] in ("all", arch, f"{arch}/{mode}"):
            points[fields[0]] = fields[2].split(",")
    return points if "enter" in points else {}


def plugin_arguments(points: dict[str, list[str]], system_map: pathlib.Path) -> tuple[str, ...]:
    """The plugin's arguments: where the functions are, by the kernel's System.map."""
    symbols = Symbols(system_map)
    found = {name: symbols.first(names) for name, names in points.items()}
    missing = [" or ".join(points[name]) for name, function in found.items() if not function]
    if missing:
        raise BadInput(f"{system_map} has no {', '.join(missing)}: bench/points names functions "
                       "that this kernel lacks")
    enter = found.pop("enter")
    return (f"enter={symbols.address(enter):x}:{symbols.end(enter):x}",
            *(f"at={name}:{symbols.address(function):x}" for name, function in found.items()))


def timed_parts(path: pathlib.Path) -> list[list[Event]]:
    """One list for each timed part, its marks included."""
    parts: list[list[Event]] = []
    within = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        count, _, event = line.partition(" ")
        if not count.isdigit() or not event or (not within and line != "0 mark"):
            raise BadInput(f"{path}:{number}: not a line of the timeline: {line}")
        if not within:
            parts.append([])
        parts[-1].append((int(count), event))
        within = event != "mark" or not within
    if within:
        raise BadInput(f"{path} was cut off")
    return parts


@dataclasses.dataclass(frozen=True)
class Fault:
    path: tuple[str, ...]    # events
    takes: tuple[int, ...]   # instructions from each to the next one, or to the next fault

    @property
    def total(self) -> int:
        return sum(self.takes)


def faults_of(part: list[Event]) -> list[Fault]:
    """The faults of a timed part.  The last one is left out: where it ends cannot be seen."""
    starts = [i for i, (_, event) in enumerate(part) if event == "page"]
    faults = []
    for start, end in itertools.pairwise(starts):
        counts, events = zip(*part[start:end + 1])
        faults.append(Fault(events[:-1], tuple(b - a for a, b in itertools.pairwise(counts))))
    return faults


def quantile(values: Iterable[int], share: float) -> int:
    """The smallest value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclasses.dataclass(frozen=True)
class Timeline:
    """All faults of one mode."""
    faults: list[Fault]

    def usual(self) -> list[Fault]:
        """Those of the path that most of them take."""
        path, _ = collections.Counter(f.path for f in self.faults).most_common(1)[0]
        return [f for f in self.faults if f.path == path]

    def kinds(self) -> dict[str, float]:
        """{kind: mean instructions} over all faults."""
        events, sums = load_events(), dict.fromkeys(kinds(), 0)
        for event, takes in (pair for f in self.faults for pair in zip(f.path, f.takes)):
            if event in events:
                sums[events[event][0]] += takes
        return {kind: total / len(self.faults) for kind, total in sums.items()}

    def curve(self) -> list[tuple[float, float]]:
        """[(instructions, per cent of the faults that take no more)]"""
        totals = sorted(f.total for f in self.faults)
        shares = {total: 100 * seen / len(totals) for seen, total in enumerate(totals, 1)}
        return [(totals[0], 0), *shares.items()]

    def distribution(self) -> tuple[int, int, int, int]:
        totals = [f.total for f in self.faults]
        return min(totals), quantile(totals, 0.5), quantile(totals, 0.99), max(totals)

    def distribution_row(self, mode: str) -> Row:
        return {"mode": mode, "faults": len(self.faults),
                **dict(zip(QUANTILES, self.distribution()))}

    def stages_row(self, mode: str) -> Row:
        """Of the usual path."""
        usual, events = self.usual(), load_events()
        stages = zip(usual[0].path, zip(*(f.takes for f in usual)))
        return {"mode": mode, "share": 100 * len(usual) / len(self.faults),
                "events": [{"event": event, "words": events.get(event, ("", event))[1],
                            "median": statistics.median_low(takes),
                            "mean": statistics.fmean(takes)} for event, takes in stages]}
