# SPDX-License-Identifier: GPL-2.0
"""make scale: how the delivery of faults scales with vCPUs, in lockstep virtual time.

bench/lockstep/ holds the CPUs of a boot together.  A rate is pages resolved per million
instructions of the critical path: a model of serialisation, without caches or coherence.
"""
import collections
import dataclasses
import itertools
import json
import pathlib
import re
import statistics
import sys
import time
from collections.abc import Iterable, Sequence

from ci.boot import request as request_
from ci.boot.request import Lockstep, Request
from ci.build import images
from ci.build.progress import TimeLeft
from ci.config import Config
from ci.facts.text import ROOT, BadInput, rows
from ci.judge.check import Status
from ci.judge.results import Boot, Run, check_resume
from ci.measure import plot, tables

# Tables have the rates of the first; what the second gives instead is the method's error.
# Longer ones let a CPU spin for a lock whose holder has used its quantum up; shorter ones cost
# host time.
QUANTA = (250, 500)
# The modes of the published table, the fair peer, and what no delivery costs
WITHOUT, WITH, SHARDED, MAPPED = "uffd_minor", "fast_minor", "uffd_minor_sharded", "mapped"
FEW = (MAPPED, WITHOUT, SHARDED, WITH)
# By FULL=
VCPUS = {False: (1, 2, 4, 8), True: (1, 2, 4, 8, 16, 32)}
BOOTS = {False: 1, True: 3}
# What the README has to have: (vCPUs, boot)
FULL_RUN = set(itertools.product(VCPUS[True], range(1, BOOTS[True] + 1)))
# NR_CPUS of the guest
MAX_CPUS = 64
# Above that, in per cent, a point is marked
MOST_SPREAD = 3
# Of a part's quanta, of all CPUs: who went on alone executed more than the clock says.
MOST_TIMEOUTS = 0.005
MARK = re.compile(r"mark \d+ (\d+) quantum=(\d+) timeouts=(\d+)")
SAMPLE = re.compile(r"(sample|spin) ([0-9a-f]+) (\d+)")
END = re.compile(r"end (\d+) quanta=(\d+) timeouts=(\d+) idle=(\d+)")
Samples = dict[tuple[str, int], int]   # {(kind, address): times}


def settled(config: Config) -> Config:
    """With what FULL= says where the knobs say nothing."""
    return dataclasses.replace(config, vcpus=numbers_of_vcpus(config.vcpus or VCPUS[config.full]),
                               boots=config.boots or BOOTS[config.full],
                               cases=config.cases or (() if config.full else FEW))


def numbers_of_vcpus(numbers: tuple[int, ...]) -> tuple[int, ...]:
    if max(numbers) > MAX_CPUS // 2:
        raise BadInput(f"VCPUS={' '.join(map(str, numbers))}: want numbers from 1 to "
                       f"{MAX_CPUS // 2}")
    return numbers


def with_lockstep(request: Request, vcpus: int, boot: int = 1,
                  spin: tuple[tuple[int, int], ...] = (),
                  quanta: tuple[int, ...] = QUANTA) -> Request:
    """A reader for each vCPU, and one CPU for everything else, if there are so many."""
    return dataclasses.replace(request, cpus=min(2 * vcpus + 1, MAX_CPUS),
                               lockstep=Lockstep(quanta, vcpus, boot, spin),
                               environment=(*request.environment, f"vcpus={vcpus}",
                                            "instruction_ns=1"))


def lockstep_of(request: Request) -> Lockstep:
    assert request.lockstep
    return request.lockstep


def requests(config: Config) -> list[Request]:
    """One Request a boot; every point once, then every point again."""
    plain = request_.requests(config, "scale", default_mode=True)
    return [with_lockstep(request, vcpus, boot) for boot in range(1, config.boots + 1)
            for vcpus in config.vcpus for request in plain]


# --- what a boot has left ---

@dataclasses.dataclass(frozen=True)
class Part:
    """What passed between two markers."""
    instructions: int   # of the critical path
    quantum: int
    timeouts: int       # how often a CPU went on alone
    samples: Samples

    def problem(self, wanted: int, cpus: int) -> str:
        if self.quantum != wanted or self.instructions <= 0:
            return (f"{self.instructions} instructions with a quantum of {self.quantum}, not "
                    f"{wanted}")
        if self.timeouts * self.quantum > MOST_TIMEOUTS * self.instructions * cpus:
            return (f"{cpus} CPUs left lockstep {self.timeouts} times in {self.instructions} "
                    "instructions: is the host busy?")
        return ""


def read_lockstep(path: pathlib.Path) -> tuple[list[Part], list[int]]:
    """(the timed parts, the last line's fields)"""
    text = path.read_text()
    end = END.search(text)
    if not end:
        raise BadInput(f"{path} has no end: QEMU or its plugin was cut off")
    parts: list[Part] = []
    start: list[int] = []
    for line in text.splitlines():
        if mark := MARK.fullmatch(line):
            now, quantum, timeouts = map(int, mark.groups())
            if start:
                parts.append(Part(now - start[0], quantum, timeouts - start[1], {}))
            start = [] if start else [now, timeouts]
        elif parts and (sample := SAMPLE.fullmatch(line)):
            parts[-1].samples[sample[1], int(sample[2], 16)] = int(sample[3])
    if start:
        raise BadInput(f"{path} has a part that does not end")
    return parts, [int(field) for field in end.groups()]


@dataclasses.dataclass(frozen=True)
class Point:
    mode: str
    vcpus: int
    quantum: int
    rate: float      # pages per million instructions of the critical path


def points_of(boot: Boot) -> list[Point]:
    """What one boot has measured.  Problems become findings of the boot."""
    lockstep, cpus = lockstep_of(boot.request), boot.request.cpus
    with tables.problems(boot, "lockstep", "not measured: "):
        # Each case has a timed part for each quantum.
        wanted = [(mode, quantum) for mode in tables.passed(boot) for quantum in lockstep.quanta]
        parts, (_, quanta, timeouts, idle) = read_lockstep(boot.directory / "lockstep")
        records = [json.loads(line)
                   for line in (boot.directory / "bench.jsonl").read_text().splitlines()]
        modes = [(mode, lockstep.vcpus) for mode, _ in wanted]
        if not len(parts) == len(wanted) == len(records):
            raise BadInput(f"expected {len(wanted)} timed parts; lockstep has {len(parts)}, "
                           f"bench.jsonl has {len(records)}")
        for record, (mode, vcpus) in zip(records, modes):
            if (record["mode"], record["vcpus"]) != (mode, vcpus):
                raise BadInput(f"bench.jsonl has {record['mode']} with {record['vcpus']} vCPUs, "
                               f"expected {mode} with {vcpus}")
        problems = [f"{mode}: {problem}" for (mode, quantum), part in zip(wanted, parts)
                    if (problem := part.problem(quantum, cpus))]
        if problems:
            raise BadInput("; ".join(problems))
        boot.meta["lockstep"] = {
            "vcpus": lockstep.vcpus, "boot": lockstep.boot,
            "timeouts": timeouts / quanta / cpus, "idle": idle / quanta / cpus}
        return [Point(mode, lockstep.vcpus, quantum, r["pages"] * 1e6 / part.instructions)
                for (mode, quantum), r, part in zip(wanted, records, parts)]
    return []


# --- the table ---

class Rates:
    """The points of one architecture, by mode, number of vCPUs and quantum."""

    def __init__(self, points: Iterable[Point]):
        self.points: dict[tuple[str, int, int], list[float]] = collections.defaultdict(list)
        for p in points:
            self.points[p.mode, p.vcpus, p.quantum].append(p.rate)
        self.modes = list(dict.fromkeys(mode for mode, _, _ in self.points))
        self.numbers = sorted({vcpus for _, vcpus, _ in self.points})

    def rate(self, mode: str, vcpus: int, quantum: int = QUANTA[0]) -> float | None:
        """The mean over all boots."""
        rates = self.points.get((mode, vcpus, quantum))
        return statistics.fmean(rates) if rates else None

    def row(self, mode: str, vcpus: int) -> tables.Row:
        rates = self.points.get((mode, vcpus, QUANTA[0]), [])
        here, other = (self.rate(mode, vcpus, quantum) for quantum in QUANTA)
        single = self.rate(mode, 1)
        # vCPUs that overlap share the pages: together they resolve each once.
        times = 1 if mode.endswith("_overlap") else vcpus
        return {"mode": mode, "vcpus": vcpus, "rate": here,
                "efficiency": 100 * here / times / single if here and single else None,
                "error": 100 * abs(here - other) / here if here and other else None,
                "spread": 100 * (max(rates) - min(rates)) / here if here and rates[1:] else None}

    def ratios(self, vcpus: int) -> tables.Row:
        """The columns of the published table, and the fair peer's."""
        here, without, sharded = (self.rate(mode, vcpus) for mode in (WITH, WITHOUT, SHARDED))
        return {"vcpus": vcpus, "without": without, "with": here,
                "published": load_published().get(vcpus),
                "ratio": here / without if here and without else None,
                "sharded": here / sharded if here and sharded else None,
                "per_vcpu": here and here / vcpus}

    def machine(self, name: str) -> tables.Row:
        """What a document says of it."""
        return {"name": name, "vcpus": self.numbers,
                "rates": [self.row(mode, n) for mode in self.modes for n in self.numbers],
                "ratios": [self.ratios(n) for n in self.numbers
                           if {WITH, WITHOUT} <= set(self.modes)]}


def load_published(path: pathlib.Path = ROOT / "bench" / "published") -> dict[int, float]:
    """{vCPUs: rate with the flag by the rate without}"""
    return {int(vcpus): int(with_) / int(without)
            for vcpus, without, with_ in (line.split() for _, line in rows(path))}


def method(boots: Iterable[Boot]) -> tables.Row:
    facts = [boot.meta["lockstep"] for boot in boots if "lockstep" in boot.meta]
    idle = [100 * fact["idle"] for fact in facts]
    return {"quanta": QUANTA, "boots": max((fact["boot"] for fact in facts), default=0),
            "marked": MOST_SPREAD,
            "timeouts": 100 * max((fact["timeouts"] for fact in facts), default=0),
            "idle": [min(idle, default=0), max(idle, default=0)]}


def curves(machine: tables.Row) -> dict[str, plot.Points]:
    points = {mode: [(row["vcpus"], row["rate"]) for row in machine["rates"]
                     if row["mode"] == mode and row["rate"]] for mode in FEW}
    ideal = [(n, n * rate) for one, rate in points[WITH] if one == 1 for n in machine["vcpus"]]
    return {**points, f"{WITH}, ideal": ideal}


def draw(directory: pathlib.Path, machines: list[tables.Row]) -> None:
    log = "set logscale xy 2\nset key top left"
    plot.curves("scaling", {machine["name"]: curves(machine) for machine in machines},
                ("vCPUs", "pages per million instructions of critical path"), log, directory)
    ratios = {f"{machine['name']}, lockstep model": [(row["vcpus"], row["ratio"])
                                                     for row in machine["ratios"] if row["ratio"]]
              for machine in machines}
    ratios["published, x86, hardware, 2023"] = list(load_published().items())
    plot.curves("ratio", {"one userfaultfd, shape alone": ratios},
                ("vCPUs", "with the flag, as a multiple of without"), log, directory)


# --- the command ---

def measure(run: Run, wanted: Sequence[Request]) -> list[tables.Row]:
    """The machines of a document; what there is if it is cut off as well."""
    points: dict[str, list[Point]] = collections.defaultdict(list)
    weights = [len(request.cases) * (lockstep_of(request).vcpus + 2) for request in wanted]
    left = TimeLeft(weights)
    for n, (request, weight) in enumerate(zip(wanted, weights), 1):
        lockstep, start = lockstep_of(request), time.monotonic()
        print(f"  {n}/{len(wanted)}  {request.name}, {lockstep.vcpus} vCPUs, "
              f"boot {lockstep.boot}{left}", flush=True)
        try:
            points[request.name] += points_of(run.boot(request))
        except KeyboardInterrupt:
            break
        left.add(weight, time.monotonic() - start)
    return [Rates(mine).machine(name) for name, mine in points.items() if mine]


def scale(config: Config) -> int:
    plot.check()
    full, resume = settled(config), check_resume(config, "scale")
    request_.show_plan(request_.plan(full, "scale", default_mode=True))
    if not config.images:
        images.build(full)
    with images.booting(config):
        wanted, run = requests(full), Run(full, "scale", resume)
        machines = measure(run, wanted)
    status = tables.finish(run, tables.document("scale", run.boots, machines,
                                                method=method(run.boots)))
    if len(run.boots) < len(wanted) or run.boots[-1].verdict == Status.INTERRUPTED:
        again = " ".join(config.given("arch", "mode", "cases", "full", "vcpus", "boots"))
        print(f"scale: cut off; to go on: make scale {again} RESUME={run.directory}",
              file=sys.stderr)
        return Status.INTERRUPTED.exit_status
    return plot.afterwards(status, draw, run.directory, machines) if machines else status
