# SPDX-License-Identifier: GPL-2.0
"""make scale: how the delivery of faults scales with vCPUs, in lockstep virtual time.

A boot is an architecture and a number of vCPUs.  bench/lockstep/ holds its CPUs together; a
rate is pages resolved per million instructions of the critical path.  That is a model of
serialisation: no caches, no coherence.  Each rate is measured with two quanta; their
difference is the method's error.
"""
import collections
import dataclasses
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
from ci.judge.check import Check, Status
from ci.judge.results import Boot, Run, check_resume
from ci.measure import plot, tables

# The first is the one that the tables have.  Longer ones let a CPU spin for a lock whose
# holder has used its quantum up; shorter ones cost host time.
QUANTA = (250, 500)
# The modes of the published table, the fair peer, and what no delivery costs
WITHOUT, WITH, SHARDED, MAPPED = "uffd_minor", "fast_minor", "uffd_minor_sharded", "mapped"
FEW = (MAPPED, WITHOUT, SHARDED, WITH)
# By FULL=
VCPUS = {False: (1, 2, 4, 8), True: (1, 2, 4, 8, 16, 32)}
BOOTS = {False: 1, True: 3}
# What the README has to have: (vCPUs, boot)
FULL_RUN = {(n, boot + 1) for n in VCPUS[True] for boot in range(BOOTS[True])}
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
    plain = list(request_.requests(config, "scale", default_mode=True))
    return [with_lockstep(request, vcpus, boot) for boot in range(1, config.boots + 1)
            for vcpus in config.vcpus for request in plain]


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
            return (f"{cpus} CPUs went on alone {self.timeouts} times in {self.instructions} "
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
        mark, sample = MARK.fullmatch(line), SAMPLE.fullmatch(line)
        if mark and not start:
            start = [int(word) for word in mark.groups()]
        elif mark:
            now, quantum, timeouts = (int(word) for word in mark.groups())
            parts.append(Part(now - start[0], quantum, timeouts - start[2], {}))
            start = []
        elif sample and parts:
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
    try:
        return read_points(boot, lockstep_of(boot.request))
    except (BadInput, OSError, ValueError, KeyError, ZeroDivisionError) as error:
        boot.findings.append(Check(Status.HARNESS, f"not measured: {error}", where="lockstep"))
        return []


def read_points(boot: Boot, lockstep: Lockstep) -> list[Point]:
    # Each case has a timed part for each quantum.
    wanted = [(r.name, quantum) for r in boot.outcome.stream.results if r.status == "pass"
              for quantum in lockstep.quanta]
    parts, (_, quanta, timeouts, idle) = read_lockstep(boot.directory / "lockstep")
    records = [json.loads(line)
               for line in (boot.directory / "bench.jsonl").read_text().splitlines()]
    modes = [(mode, lockstep.vcpus) for mode, _ in wanted]
    if len(parts) != len(wanted) or [(r["mode"], r["vcpus"]) for r in records] != modes:
        raise BadInput(f"{len(wanted)} timed parts, with {len(parts)} in lockstep and "
                       f"{len(records)} records, not all as wanted")
    cpus = boot.request.cpus
    problems = [f"{mode}: {problem}" for (mode, quantum), part in zip(wanted, parts)
                if (problem := part.problem(quantum, cpus))]
    if problems:
        raise BadInput("; ".join(problems))
    boot.meta["lockstep"] = {"vcpus": lockstep.vcpus, "boot": lockstep.boot,
                             "timeouts": timeouts / quanta / cpus, "idle": idle / quanta / cpus}
    return [Point(mode, lockstep.vcpus, quantum, r["pages"] * 1e6 / part.instructions)
            for (mode, quantum), r, part in zip(wanted, records, parts)]


class Rates:
    """The points of one architecture, asked for by mode, number of vCPUs and quantum."""

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

    def efficiency(self, mode: str, vcpus: int) -> float | None:
        """Per cent of the rate of one vCPU times their number; of shared pages, of one's."""
        here, single = self.rate(mode, vcpus), self.rate(mode, 1)
        times = 1 if mode.endswith("_overlap") else vcpus
        return 100 * here / times / single if here and single else None

    def error(self, mode: str, vcpus: int) -> float | None:
        """Per cent that the quanta differ by."""
        here, other = (self.rate(mode, vcpus, quantum) for quantum in QUANTA)
        return 100 * abs(here - other) / here if here and other else None

    def spread(self, mode: str, vcpus: int) -> float | None:
        """Per cent that the boots differ by, of their mean."""
        rates = self.points.get((mode, vcpus, QUANTA[0]), [])
        return 100 * (max(rates) - min(rates)) / statistics.fmean(rates) if rates[1:] else None

    def machine(self, name: str) -> tables.Row:
        """What a document says of it."""
        return {"name": name, "vcpus": self.numbers,
                "rates": [{"mode": mode, "vcpus": n, "rate": self.rate(mode, n),
                           "efficiency": self.efficiency(mode, n), "error": self.error(mode, n),
                           "spread": self.spread(mode, n)}
                          for mode in self.modes for n in self.numbers],
                "ratios": self.ratios() if {WITH, WITHOUT} <= set(self.modes) else []}

    def ratios(self) -> list[tables.Row]:
        published = load_published()
        found = []
        for n in self.numbers:
            here, without, sharded = (self.rate(mode, n) for mode in (WITH, WITHOUT, SHARDED))
            found.append({"vcpus": n, "without": without, "with": here,
                          "published": published.get(n),
                          "ratio": here / without if here and without else None,
                          "sharded": here / sharded if here and sharded else None,
                          "per_vcpu": here and here / n})
        return found


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
    points: dict[str, plot.Points] = {
        mode: [(row["vcpus"], row["rate"]) for row in machine["rates"]
               if row["mode"] == mode and row["rate"]] for mode in FEW}
    ideal = [(n, n * rate) for one, rate in points[WITH] if one == 1 for n in machine["vcpus"]]
    return {**points, f"{WITH}, ideal": ideal}


def draw(directory: pathlib.Path, machines: list[tables.Row]) -> None:
    log = "set logscale xy 2\nset key top left"
    plot.curves("scaling", {machine["name"]: curves(machine) for machine in machines},
                ("vCPUs", "pages per million instructions of critical path"), log, directory)
    ratios: dict[str, plot.Points] = {
        f"{machine['name']}, lockstep model": [(row["vcpus"], row["ratio"])
                                               for row in machine["ratios"] if row["ratio"]]
        for machine in machines}
    ratios["published, x86, hardware, 2023"] = list(load_published().items())
    plot.curves("ratio", {"one userfaultfd, shape alone": ratios},
                ("vCPUs", "with the flag, as a multiple of without"), log, directory)


def weight(request: Request) -> int:
    return len(request.cases) * (lockstep_of(request).vcpus + 2)


def measure(run: Run, wanted: Sequence[Request]) -> list[tables.Row]:
    """The machines of a document; what there is if it is cut off as well."""
    points: dict[str, list[Point]] = collections.defaultdict(list)
    left = TimeLeft(map(weight, wanted))
    for n, request in enumerate(wanted, 1):
        lockstep = lockstep_of(request)
        print(f"  {n}/{len(wanted)}  {request.name}, {lockstep.vcpus} vCPUs, "
              f"boot {lockstep.boot}{left}", flush=True)
        start = time.monotonic()
        try:
            points[request.name] += points_of(run.boot(request))
        except KeyboardInterrupt:
            break
        left.add(weight(request), time.monotonic() - start)
    return [Rates(mine).machine(name) for name, mine in points.items() if mine]


def scale(config: Config) -> int:
    plot.check()
    full = settled(config)
    resume = check_resume(config, "scale")
    request_.show_plan(request_.plan(full, "scale", default_mode=True))
    if not config.images:
        images.build(full)
    with images.booting(config):
        wanted = requests(full)
        run = Run(full, "scale", resume)
        machines = measure(run, wanted)
    document = tables.document("scale", run.boots, machines, method=method(run.boots))
    status = tables.finish(run, document)
    if len(run.boots) < len(wanted) or run.boots[-1].verdict == Status.INTERRUPTED:
        again = " ".join(config.given("arch", "mode", "cases", "full", "vcpus", "boots"))
        print(f"scale: cut off; to go on: make scale {again} RESUME={run.directory}",
              file=sys.stderr)
        return Status.INTERRUPTED.exit_status
    return plot.afterwards(status, draw, run.directory, machines) if machines else status
