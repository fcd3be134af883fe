# SPDX-License-Identifier: GPL-2.0
"""The events of single faults, which bench/lockstep/timeline.c wrote down.

A fault is what happens from the guest's access to a page to its access to the next one.
Most faults take the same path, a sequence of events.  The stage of an event lasts until the
next one: a context switch or the way back to userspace have no event of their own.  A timer
tick or the refill of an allocator is part of the stage that it falls into, hence medians
beside means.
"""
import collections
import dataclasses
import math
import pathlib
import statistics
from collections.abc import Iterable

from ci.facts.text import ROOT, BadInput, rows
from ci.measure.symbols import Symbols
from ci.measure.tables import QUANTILES, Row

# What is executed from an event on, in words; of the events of bench/points and the
# plugin's own.
WORDS = {
    "page": "guest: the access", "guest": "guest: once more, and on to the next",
    "kernel": "kernel: entered", "user": "userspace", "fault": "KVM: the fault",
    "lookup": "KVM: lookup of the page", "wait": "userfaultfd: told of the fault",
    "switch": "kernel: another thread", "map": "KVM: the page into the guest's page table",
    "provide": "UFFDIO ioctl", "wake": "kernel: wake a thread", "run": "KVM_RUN",
    "load": "KVM: the vCPU onto this CPU", "put": "KVM: the vCPU off this CPU",
}
# What the picture of the stages takes together: {kind: events}
KINDS = {"the guest": ("page", "guest"), "entry of the kernel": ("kernel",),
         "fault, lookup": ("fault", "lookup"), "mapping": ("map",),
         "KVM_RUN, load, put": ("run", "load", "put"), "userfaultfd": ("wait", "provide"),
         "schedule, wake": ("switch", "wake"), "return to userspace": ("user",)}
Event = tuple[int, str]   # instructions since the mark, name


def load_points(arch: str, mode: str,
                path: pathlib.Path = ROOT / "bench" / "points") -> dict[str, list[str]]:
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
    found = {name: symbols.first(names) or "" for name, names in points.items()}
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
    for start, end in zip(starts, starts[1:]):
        counts = [count for count, _ in part[start:end + 1]]
        faults.append(Fault(tuple(event for _, event in part[start:end]),
                            tuple(b - a for a, b in zip(counts, counts[1:]))))
    return faults


def quantile(values: Iterable[int], share: float) -> int:
    """The smallest value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Of one mode: all of its faults, and those of the path that most of them take."""
    faults: list[Fault]

    @property
    def usual(self) -> list[Fault]:
        path, _ = collections.Counter(f.path for f in self.faults).most_common(1)[0]
        return [f for f in self.faults if f.path == path]

    @property
    def stages(self) -> list[tuple[str, int, float]]:
        """[(event, median, mean)] of the usual path, in instructions until the next event."""
        usual = self.usual
        return [(event, statistics.median_low(takes), statistics.fmean(takes))
                for event, takes in zip(usual[0].path, zip(*(f.takes for f in usual)))]

    def kinds(self) -> dict[str, float]:
        """{kind: mean instructions} over all faults."""
        sums: collections.Counter[str] = collections.Counter()
        for fault in self.faults:
            for event, takes in zip(fault.path, fault.takes):
                sums[event] += takes
        return {kind: sum(sums[event] for event in events) / len(self.faults)
                for kind, events in KINDS.items()}

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
        return {"mode": mode, "share": 100 * len(self.usual) / len(self.faults),
                "events": [{"event": event, "words": WORDS.get(event, event), "median": median,
                            "mean": mean} for event, median, mean in self.stages]}
