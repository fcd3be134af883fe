# SPDX-License-Identifier: GPL-2.0
"""Measure how the delivery of faults scales with vCPUs, in lockstep virtual time.

usage: scale.py [--plan] ARCH...    (what make scale calls; knobs: see run.py, and below)

A boot is an architecture and a number of vCPUs.  Its CPUs are held together by
bench/lockstep/; a figure is pages resolved per million instructions of the critical path.
That is a model of serialisation: no caches, no coherence.  Each is measured with two
quanta, and what they differ by is the method's error.

	FULL=1         all modes instead of those of the published table, to 32 vCPUs
	               instead of 8, in three boots instead of one
	VCPUS, BOOTS   other numbers of vCPUs, and of boots
	RESUME         the directory of a run that was cut off, to go on with

Exit status: ci/judge/verdict.py has the list.
"""
import collections
import dataclasses
import json
import os
import re
import statistics
import sys
import textwrap
import time

from ci.boot import qemu as guest
from ci.measure import plot
from ci.judge import results as run
from ci.facts.arch import ROOT, BadInput
from ci.judge.verdict import Finding, Verdict

# The first is the one that the tables have.  Longer ones let a CPU spin for a lock whose
# holder has used its quantum up; shorter ones cost host time.
QUANTA = (250, 500)
# The modes of the published table, the fair peer, and what no delivery costs
WITHOUT, WITH, SHARDED, MAPPED = "uffd_minor", "fast_minor", "uffd_minor_sharded", "mapped"
VCPUS = {False: "1 2 4 8", True: "1 2 4 8 16 32"}
BOOTS = {False: 1, True: 3}
# What the README has to have: (vCPUs, boot)
FULL_RUN = {(int(n), boot + 1) for n in VCPUS[True].split() for boot in range(BOOTS[True])}
# NR_CPUS of the guest
MAX_CPUS = 64
# Above that, in per cent, a point is marked
MOST_SPREAD = 3
# Of a part's quanta, of all CPUs: who went on alone executed more than the clock says.
MOST_TIMEOUTS = 0.005
MARK = re.compile(r"mark \d+ (\d+) quantum=(\d+) timeouts=(\d+)")
SAMPLE = re.compile(r"(sample|spin) ([0-9a-f]+) (\d+)")
END = re.compile(r"end (\d+) quanta=(\d+) timeouts=(\d+) idle=(\d+)")


def full():
    if run.knob("FULL", "0") not in ("0", "1"):
        raise BadInput(f"FULL={run.knob('FULL')}: choose 1, or leave it unset")
    return run.knob("FULL", "0") == "1"


def numbers_of_vcpus():
    text = run.knob("VCPUS", VCPUS[full()])
    numbers = [int(word) for word in text.split() if word.isdecimal() and word.isascii()]
    if len(numbers) != len(text.split()) or not numbers or not all(0 < n <= MAX_CPUS // 2 for n in numbers):
        raise BadInput(f"VCPUS={text}: want numbers from 1 to {MAX_CPUS // 2}")
    return sorted(set(numbers))


def check_knobs():
    numbers_of_vcpus()
    if not run.number_knob("BOOTS", BOOTS[full()]):
        raise BadInput("BOOTS=0: want one at least")
    if not full() and not run.knob("CASES"):
        os.environ["CASES"] = " ".join((MAPPED, WITHOUT, SHARDED, WITH))


def with_lockstep(request, vcpus, boot=1, spin=(), quanta=QUANTA):
    """A reader for each vCPU, and one CPU for everything else, if there are so many."""
    return dataclasses.replace(request, cpus=min(2 * vcpus + 1, MAX_CPUS),
                               lockstep=guest.Lockstep(quanta, vcpus, boot, spin),
                               environment=(*request.environment, f"vcpus={vcpus}", "instruction_ns=1"))


def requests(archs):
    """One Request a boot; every point once, then every point again."""
    plain = list(run.requests(archs, "scale", default_mode=True))
    for boot in range(1, run.number_knob("BOOTS", BOOTS[full()]) + 1):
        for vcpus in numbers_of_vcpus():
            yield from (with_lockstep(request, vcpus, boot) for request in plain)


@dataclasses.dataclass(frozen=True)
class Part:
    """What passed between two markers."""
    instructions: int   # of the critical path
    quantum: int
    timeouts: int       # how often a CPU went on alone
    samples: dict       # {(kind, address): times}

    def problem(self, wanted, cpus):
        if self.quantum != wanted or self.instructions <= 0:
            return f"{self.instructions} instructions with a quantum of {self.quantum}, not {wanted}"
        if self.timeouts * self.quantum > MOST_TIMEOUTS * self.instructions * cpus:
            return f"{cpus} CPUs went on alone {self.timeouts} times in {self.instructions} instructions: is the host busy?"
        return ""


def read_lockstep(path):
    """([Part], the last line's fields)"""
    text = path.read_text()
    end = END.search(text)
    if not end:
        raise BadInput(f"{path} has no end: QEMU or its plugin was cut off")
    parts, start = [], None
    for line in text.splitlines():
        mark, sample = MARK.fullmatch(line), SAMPLE.fullmatch(line)
        if mark and not start:
            start = [int(word) for word in mark.groups()]
        elif mark:
            time, quantum, timeouts = (int(word) for word in mark.groups())
            parts.append(Part(time - start[0], quantum, timeouts - start[2], {}))
            start = None
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


def points_of(boot):
    """What one boot has measured.  Problems become findings of the boot."""
    # Each case has a timed part for each quantum.
    lockstep = boot.request.lockstep
    wanted = [(r.name, quantum) for r in boot.outcome.stream.results if r.status == "pass" for quantum in lockstep.quanta]
    try:
        parts, (_, quanta, timeouts, idle) = read_lockstep(boot.directory / "lockstep")
        records = [json.loads(line) for line in (boot.directory / "bench.jsonl").read_text().splitlines()]
        if len(parts) != len(wanted) or [(r["mode"], r["vcpus"]) for r in records] != [(mode, lockstep.vcpus) for mode, _ in wanted]:
            raise BadInput(f"{len(wanted)} timed parts, with {len(parts)} in lockstep and {len(records)} records, not all as wanted")
        problems = [f"{mode}: {problem}" for (mode, quantum), part in zip(wanted, parts) if (problem := part.problem(quantum, boot.request.cpus))]
        if problems:
            raise BadInput("; ".join(problems))
        boot.meta["lockstep"] = {"vcpus": lockstep.vcpus, "boot": lockstep.boot,
                                 "timeouts": timeouts / quanta / boot.request.cpus, "idle": idle / quanta / boot.request.cpus}
        return [Point(mode, lockstep.vcpus, quantum, r["pages"] * 1e6 / part.instructions)
                for (mode, quantum), r, part in zip(wanted, records, parts)]
    except (BadInput, OSError, ValueError, KeyError, ZeroDivisionError) as error:
        boot.findings.append(Finding(Verdict.HARNESS, "", f"not measured: {error}", "lockstep"))
        return []


class Rates:
    """The points of one architecture, asked for by mode, number of vCPUs and quantum."""

    def __init__(self, points):
        self.points = collections.defaultdict(list)
        for p in points:
            self.points[p.mode, p.vcpus, p.quantum].append(p.rate)
        self.modes = list(dict.fromkeys(p.mode for p in points))
        self.numbers = sorted({p.vcpus for p in points})

    def rate(self, mode, vcpus, quantum=QUANTA[0]):
        """The mean over all boots, or None."""
        found = self.points.get((mode, vcpus, quantum))
        return statistics.fmean(found) if found else None

    def ratio(self, mode, other, vcpus):
        here, there = self.rate(mode, vcpus), self.rate(other, vcpus)
        return here / there if here and there else None

    def efficiency(self, mode, vcpus):
        """Per cent of the rate of one vCPU times their number; of pages that all share, of one's."""
        here, single = self.rate(mode, vcpus), self.rate(mode, 1)
        times = 1 if mode.endswith("_overlap") else vcpus
        return 100 * here / times / single if here and single else None

    def error(self, mode, vcpus):
        """Per cent that the quanta differ by."""
        here, other = (self.rate(mode, vcpus, quantum) for quantum in QUANTA)
        return 100 * abs(here - other) / here if here and other else None

    def spread(self, mode, vcpus):
        """Per cent that the boots differ by, of their mean."""
        found = self.points.get((mode, vcpus, QUANTA[0]), [])
        return 100 * (max(found) - min(found)) / statistics.fmean(found) if len(found) > 1 else None


def number(value, suffix="", digits=0):
    return "-" if value is None else f"{value:.{digits}f}{suffix}"


def load_published(path=ROOT / "bench" / "published"):
    """{vCPUs: (without, with)} in thousands of pages a second."""
    rows = [line.split() for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {int(vcpus): (int(without), int(with_)) for vcpus, without, with_ in rows}


def error_cell(rates, mode, vcpus):
    error, spread = rates.error(mode, vcpus), rates.spread(mode, vcpus)
    mark = "!" if (spread or 0) > MOST_SPREAD else ""
    return number(error) + ("" if spread is None else f"/{number(spread)}{mark}")


def block(title, rates, cell):
    yield f"{title:30}" + "".join(f"{n:>7}" for n in rates.numbers)
    for mode in rates.modes:
        yield f"{mode:30}" + "".join(f"{cell(mode, n):>7}" for n in rates.numbers)


def rate_tables(rates):
    """What there is for every mode: rates, efficiency, errors."""
    yield from block("rate; vCPUs:", rates, lambda mode, n: number(rates.rate(mode, n)))
    yield ""
    yield from block("% of as many single vCPUs:", rates, lambda mode, n: number(rates.efficiency(mode, n)))
    yield ""
    yield from block("error in %: quanta/boots", rates, lambda mode, n: error_cell(rates, mode, n))


def ratio_table(rates):
    """The columns of the published table, and the fair peer's."""
    published = load_published()
    yield f"{'vCPUs':>5}{'without':>9}{'with':>7}{'ratio':>8}{'published':>11}{'vs sharded':>12}{'per vCPU, with':>16}"
    for n in rates.numbers:
        here = rates.rate(WITH, n)
        shape = published[n][1] / published[n][0] if n in published else None
        yield (f"{n:5}{number(rates.rate(WITHOUT, n)):>9}{number(here):>7}{number(rates.ratio(WITH, WITHOUT, n), 'x', 2):>8}"
               f"{number(shape, 'x', 1):>11}{number(rates.ratio(WITH, SHARDED, n), 'x', 2):>12}"
               f"{number(here and here / n):>16}")


def table(name, points):
    """The lines of one architecture's tables."""
    rates = Rates(points)
    yield f"{name}: pages per million instructions of critical path, all vCPUs"
    yield "lockstep model: serialisation only, no caches, no coherence"
    yield from rate_tables(rates)
    if {WITH, WITHOUT} <= set(rates.modes):
        yield ""
        yield from ratio_table(rates)


def curves_of(rates):
    found = {mode: [(n, rates.rate(mode, n)) for n in rates.numbers if rates.rate(mode, n)]
             for mode in (MAPPED, WITHOUT, SHARDED, WITH) if mode in rates.modes}
    single = rates.rate(WITH, 1)
    if single:
        found[f"{WITH}, ideal"] = [(n, n * single) for n in rates.numbers]
    return found


def draw(directory, points):
    found = {name: Rates(p) for name, p in points.items()}
    plot.curves("scaling", {name: curves_of(rates) for name, rates in found.items()}, "vCPUs",
                "pages per million instructions of critical path", "set logscale xy 2\nset key top left", directory)
    ratios = {f"{name}, lockstep model": [(n, rates.ratio(WITH, WITHOUT, n)) for n in rates.numbers if rates.ratio(WITH, WITHOUT, n)]
              for name, rates in found.items()}
    ratios["published, x86, hardware, 2023"] = [(n, with_ / without) for n, (without, with_) in load_published().items()]
    plot.curves("ratio", {"one userfaultfd, shape alone": ratios}, "vCPUs", "with the flag, as a multiple of without",
                "set logscale xy 2\nset key top left", directory)


def method(boots):
    measured = [b.meta["lockstep"] for b in boots if "lockstep" in b.meta]
    most = max((m["timeouts"] for m in measured), default=0)
    idle = [100 * m["idle"] for m in measured]
    text = (f"rate: with a quantum of {QUANTA[0]} instructions, mean over the boots.  Error: of the method, which is what a quantum "
            f"of {QUANTA[1]} gives instead, and the range over {max((m['boot'] for m in measured), default=0)} boots, \"!\" above "
            f"{MOST_SPREAD} %.  Of vCPUs that overlap, efficiency is in single vCPUs' rate.  Time-outs: at most {100 * most:.3f} % of "
            f"quanta; idle CPUs: {min(idle, default=0):.0f} to {max(idle, default=0):.0f} %.  published: by its authors, on x86 "
            "hardware, 2023 (bench/published); only the ratio can be compared")
    return textwrap.fill(text, 72)


class Progress:
    """How long it may still take: a boot's share is what it has to execute, by a rule of thumb."""

    def __init__(self, wanted):
        self.left, self.done, self.spent = sum(map(self.weight, wanted)), 0, 0

    @staticmethod
    def weight(request):
        return len(request.cases) * (request.lockstep.vcpus + 2)

    def __str__(self):
        minutes = self.spent / self.done * self.left / 60 if self.done else 0
        return f", some {minutes:.0f} min left" if minutes >= 1 else ""

    def add(self, request, seconds):
        self.left -= self.weight(request)
        if seconds > 1:   # else it had been measured before
            self.done, self.spent = self.done + self.weight(request), self.spent + seconds


def measure(this, wanted):
    """{architecture/mode: [Point]}; what there is if it is cut off as well."""
    points, progress = collections.defaultdict(list), Progress(wanted)
    for n, request in enumerate(wanted, 1):
        lockstep = request.lockstep
        print(f"  {n}/{len(wanted)}  {request.name}, {lockstep.vcpus} vCPUs, "
              f"boot {lockstep.boot}{progress}", flush=True)
        start = time.monotonic()
        try:
            points[request.name] += points_of(this.boot(request))
        except KeyboardInterrupt:
            break
        progress.add(request, time.monotonic() - start)
    return {name: found for name, found in points.items() if found}


def scale(archs):
    plot.check()
    check_knobs()
    resume = run.check_resume("scale")
    if archs[:1] == ["--plan"]:
        return run.show_plan(run.plan(archs[1:], "scale", default_mode=True))
    wanted = list(requests(archs))
    this = run.Run("scale", resume)
    points = measure(this, wanted)
    tables = ["\n".join(table(name, found)) for name, found in points.items()]
    status = this.finish("\n\n".join([*tables, method(this.boots)]) + "\n" if tables else "")
    if len(this.boots) < len(wanted) or this.boots[-1].verdict == Verdict.INTERRUPTED:
        knobs = [f"ARCH={archs[0]}"] * (len(archs) == 1) + run.knobs_given("MODE", "CASES", "FULL", "VCPUS", "BOOTS")
        print(f"scale: cut off; to go on: make scale {' '.join(knobs)} RESUME={this.directory}", file=sys.stderr)
        return int(Verdict.INTERRUPTED)
    return plot.afterwards(status, draw, this.directory, points) if points else status


if __name__ == "__main__":
    sys.exit(run.main(scale, sys.argv[1:]))
