# SPDX-License-Identifier: GPL-2.0
"""What one fault consists of, from the events that bench/lockstep/timeline.c wrote down.

A fault is what happens from the guest's access to a page to its access to the next one.
Most faults take the same path, a sequence of events.  What follows an event, until the next
one, is its stage, whatever it is: a context switch or the way back to userspace have no event
of their own.  A timer tick or the refill of an allocator is part of the stage that it falls
into, hence medians beside means.
"""
import collections
import dataclasses
import math
import statistics

from ci.facts.arch import ROOT, BadInput
from ci.measure.symbols import Symbols

# What is executed from an event on, in words; of the events of bench/points and the
# plugin's own.
WORDS = {
    "page": "guest: the access", "guest": "guest: once more, and on to the next",
    "kernel": "kernel: entered", "user": "userspace", "fault": "KVM: the fault", "lookup": "KVM: lookup of the page",
    "wait": "userfaultfd: told of the fault", "switch": "kernel: another thread",
    "map": "KVM: the page into the guest's page table", "provide": "UFFDIO ioctl", "wake": "kernel: wake a thread",
    "run": "KVM_RUN", "load": "KVM: the vCPU onto this CPU", "put": "KVM: the vCPU off this CPU",
}

# What the picture of the stages takes together: {kind: events}
KINDS = {"the guest": ("page", "guest"), "entry of the kernel": ("kernel",), "fault, lookup": ("fault", "lookup"),
         "mapping": ("map",), "KVM_RUN, load, put": ("run", "load", "put"), "userfaultfd": ("wait", "provide"),
         "schedule, wake": ("switch", "wake"), "return to userspace": ("user",)}


def load_points(arch, mode, path=ROOT / "bench" / "points"):
    """{name: functions} for a mode of an architecture; empty if it has no "enter"."""
    points = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fields = line.split()
        if not fields or line.startswith("#"):
            continue
        if len(fields) != 3:
            raise BadInput(f"{path}:{number}: want name, architecture or all, function")
        if fields[1] in ("all", arch, f"{arch}/{mode}"):
            points[fields[0]] = fields[2].split(",")
    return points if "enter" in points else {}


def plugin_arguments(points, system_map):
    """The plugin's arguments: where the functions are, by the kernel's System.map."""
    symbols = Symbols(system_map)
    missing = [" or ".join(names) for names in points.values() if not symbols.first(names)]
    if missing:
        raise BadInput(f"{system_map} has no {', '.join(missing)}: bench/points names functions that this kernel lacks")
    found = {name: symbols.first(names) for name, names in points.items()}
    enter = found.pop("enter")
    return (f"enter={symbols.address(enter):x}:{symbols.end(enter):x}",
            *(f"at={name}:{symbols.address(function):x}" for name, function in found.items()))


def timed_parts(path):
    """[[(instructions, event)]]: one list for each timed part, its marks included."""
    parts, open_ = [], False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        count, _, event = line.partition(" ")
        if not count.isdigit() or not event or (not open_ and line != "0 mark"):
            raise BadInput(f"{path}:{number}: not a line of the timeline: {line}")
        if not open_:
            parts.append([])
        parts[-1].append((int(count), event))
        open_ = event != "mark" or not open_
    if open_:
        raise BadInput(f"{path} was cut off")
    return parts


@dataclasses.dataclass(frozen=True)
class Fault:
    path: tuple      # events
    takes: tuple     # instructions from each to the next one, or to the next fault

    @property
    def total(self):
        return sum(self.takes)


def faults_of(part):
    """The faults of a timed part.  The last one is left out: where it ends cannot be seen."""
    starts = [i for i, (_, event) in enumerate(part) if event == "page"]
    faults = []
    for start, end in zip(starts, starts[1:]):
        counts = [count for count, _ in part[start:end + 1]]
        faults.append(Fault(tuple(event for _, event in part[start:end]),
                            tuple(b - a for a, b in zip(counts, counts[1:]))))
    return faults


def quantile(values, share):
    """The smallest value that so large a share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Of one mode: all of its faults, and those of the path that most of them take."""
    faults: list

    @property
    def usual(self):
        path, _ = collections.Counter(f.path for f in self.faults).most_common(1)[0]
        return [f for f in self.faults if f.path == path]

    @property
    def stages(self):
        """[(event, median, mean)] of the usual path, in instructions until the next event."""
        usual = self.usual
        takes = list(zip(*(f.takes for f in usual)))
        return [(event, statistics.median_low(t), statistics.fmean(t)) for event, t in zip(usual[0].path, takes)]

    def kinds(self):
        """{kind: mean instructions} over all faults."""
        sums = collections.Counter()
        for fault in self.faults:
            for event, takes in zip(fault.path, fault.takes):
                sums[event] += takes
        return {kind: sum(sums[event] for event in events) / len(self.faults) for kind, events in KINDS.items()}

    def curve(self):
        """[(instructions, per cent of the faults that take no more)]"""
        found, seen = collections.Counter(f.total for f in self.faults), 0
        points = [(min(found), 0)]
        for total in sorted(found):
            seen += found[total]
            points.append((total, 100 * seen / len(self.faults)))
        return points

    def distribution(self):
        totals = [f.total for f in self.faults]
        return min(totals), quantile(totals, 0.5), quantile(totals, 0.99), max(totals)


def distribution_table(name, timelines):
    """The lines of one architecture's table; timelines: {mode: Timeline}."""
    yield f"{name}: instructions of single faults, counted in QEMU"
    yield f"{'':26}{'faults':>8}{'min':>8}{'median':>8}{'p99':>8}{'max':>8}"
    for mode, timeline in timelines.items():
        yield f"{mode:26}{len(timeline.faults):>8}" + "".join(f"{v:>8}" for v in timeline.distribution())


def stage_table(name, mode, timeline):
    """The lines of a mode's usual path: what follows each event, until the next."""
    stages = timeline.stages
    share = 100 * len(timeline.usual) / len(timeline.faults)
    yield f"{name}: the path of {share:.0f} % of {mode}'s faults, instructions from one event to the next"
    yield f"{'median':>8}{'mean':>8}"
    for event, median, mean in stages:
        yield f"{median:8}{mean:8.0f}  {WORDS.get(event, event)}"
    yield f"{sum(m for _, m, _ in stages):8}{sum(m for _, _, m in stages):8.0f}  to the next page"
