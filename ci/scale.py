#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Measure how the delivery of faults scales with vCPUs, in lockstep virtual time.

usage: scale.py [--plan] ARCH...    (what make scale calls; knobs: see run.py)

A boot is an architecture, a number of vCPUs and a quantum.  Its CPUs are held together by
bench/lockstep/; a figure is pages resolved per million instructions of the critical path.
That is a model of serialisation: no caches, no coherence.  Each is measured with two
quanta, and what they differ by is the method's error.

Exit status: ci/verdict.py has the list.
"""
import dataclasses
import json
import re
import sys

import guest
import plot
import run
from arch import ROOT, BadInput
from verdict import Finding, Verdict

# The first is the one that the table has.  Longer ones let a CPU spin for a lock whose
# holder has used its quantum up; shorter ones cost host time.
QUANTA = (250, 500)
# The modes of the published table, and the fair peer
WITHOUT, WITH, SHARDED = "uffd_minor", "fast_minor", "uffd_minor_sharded"
MARK = re.compile(r"mark (\d+) (\d+)")
END = re.compile(r"end (\d+) quanta=(\d+) timeouts=(\d+) idle=(\d+)")

def requests(archs):
    """One Request for each number of vCPUs and quantum, the CPUs as that takes."""
    for request in run.requests(archs, "scale", default_mode=True):
        for vcpus in sorted({int(case.command[2]) for case in request.cases}):
            cases = tuple(case for case in request.cases if case.command[2] == str(vcpus))
            for quantum in QUANTA:
                # A reader for each vCPU, and one for everything else
                yield vcpus, dataclasses.replace(request, cases=cases, cpus=2 * vcpus + 1,
                                                 lockstep=guest.Lockstep(quantum))

def read_lockstep(path):
    """([virtual time of each marker], the fields of the last line)"""
    text = path.read_text()
    end = END.search(text)
    if not end:
        raise BadInput(f"{path} has no end: QEMU or its plugin was cut off")
    return [int(time) for _, time in MARK.findall(text)], [int(field) for field in end.groups()]

@dataclasses.dataclass(frozen=True)
class Point:
    mode: str
    vcpus: int
    quantum: int
    rate: float      # pages per million instructions of the critical path

def points_of(boot, vcpus):
    """What one boot has measured.  Problems become findings of the boot."""
    passed = [r.name for r in boot.outcome.stream.results if r.status == "pass"]
    try:
        marks, (_, quanta, timeouts, idle) = read_lockstep(boot.directory / "lockstep")
        records = [json.loads(line) for line in (boot.directory / "bench.jsonl").read_text().splitlines()]
        if len(marks) != 2 * len(passed) or len(records) != len(passed):
            raise BadInput(f"{len(passed)} cases passed, with {len(records)} records and {len(marks)} markers")
        times = [end - start for start, end in zip(marks[::2], marks[1::2])]
        boot.meta["lockstep"] = {"quantum": boot.request.lockstep.quantum, "timeouts": timeouts / quanta,
                                 "idle": idle / quanta / boot.request.cpus}
        return [Point(r["mode"], vcpus, boot.request.lockstep.quantum, r["pages"] * 1e6 / time)
                for r, time in zip(records, times)]
    except (BadInput, OSError, ValueError, KeyError, ZeroDivisionError) as error:
        boot.findings.append(Finding(Verdict.HARNESS, "", f"not measured: {error}", "lockstep"))
        return []

def rate(points, mode, vcpus, quantum=QUANTA[0]):
    return next((p.rate for p in points if (p.mode, p.vcpus, p.quantum) == (mode, vcpus, quantum)), None)

def efficiency(points, mode, vcpus):
    here, single = rate(points, mode, vcpus), rate(points, mode, 1)
    return f"{100 * here / vcpus / single:.0f}%" if here and single else "-"

def error(points, mode, vcpus):
    here, other = (rate(points, mode, vcpus, quantum) for quantum in QUANTA)
    return f"{100 * abs(here - other) / here:.0f}%" if here and other else "-"

def ratio(points, mode, other, vcpus):
    here, there = rate(points, mode, vcpus), rate(points, other, vcpus)
    return f"{here / there:.2f}x" if here and there else "-"

def number(value):
    return "-" if value is None else f"{value:.0f}"

def load_published(path=ROOT / "bench" / "published"):
    """{vCPUs: (without, with)} in thousands of pages a second."""
    rows = [line.split() for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {int(vcpus): (int(without), int(with_)) for vcpus, without, with_ in rows}

def rates_table(points, numbers):
    """Every mode's rate, efficiency and error."""
    modes = list(dict.fromkeys(p.mode for p in points))
    yield f"{'vCPUs':>5}" + "".join(f"{mode.replace('_sharded', '_shard'):>17}" for mode in modes)
    for n in numbers:
        yield f"{n:5}" + "".join(f"{number(rate(points, m, n)):>7}{efficiency(points, m, n):>6}{error(points, m, n):>4}"
                                 for m in modes)

def ratio_table(points, numbers):
    """The columns of the published table, and the fair peer's."""
    published = load_published()
    yield f"{'vCPUs':>5}{'without':>9}{'with':>7}{'ratio':>8}{'published':>11}{'vs sharded':>12}{'per vCPU, with':>16}"
    for n in numbers:
        here = rate(points, WITH, n)
        shape = f"{published[n][1] / published[n][0]:.1f}x" if n in published else "-"
        yield (f"{n:5}{number(rate(points, WITHOUT, n)):>9}{number(here):>7}{ratio(points, WITH, WITHOUT, n):>8}"
               f"{shape:>11}{ratio(points, WITH, SHARDED, n):>12}{number(here and here / n):>16}")

def table(name, points):
    """The lines of one architecture's tables."""
    numbers = sorted({p.vcpus for p in points})
    yield f"{name}: pages per million instructions of critical path, all vCPUs"
    yield "lockstep model: serialisation only, no caches, no coherence"
    yield from rates_table(points, numbers)
    if {WITH, WITHOUT} <= {p.mode for p in points}:
        yield ""
        yield from ratio_table(points, numbers)

def draw(directory, found):
    charts = {}
    for name, points in found.items():
        charts[name] = {mode: [(p.vcpus, p.rate) for p in points if (p.mode, p.quantum) == (mode, QUANTA[0])]
                        for mode in dict.fromkeys(p.mode for p in points)}
        single = rate(points, WITH, 1)
        if single:
            charts[name][f"{WITH}, ideal"] = [(n, n * single) for n in sorted({p.vcpus for p in points})]
    plot.curves("scaling", charts, "vCPUs", "pages per million instructions of critical path",
                "set logscale xy 2\nset key top left", directory)
    ratios = {f"{name}, lockstep model": [(n, rate(points, WITH, n) / rate(points, WITHOUT, n)) for n in
                                         sorted({p.vcpus for p in points}) if rate(points, WITH, n) and rate(points, WITHOUT, n)]
              for name, points in found.items()}
    ratios["published, x86, hardware, 2023"] = [(n, with_ / without) for n, (without, with_) in load_published().items()]
    plot.curves("ratio", {"one userfaultfd, shape alone": ratios}, "vCPUs", "with the flag, as a multiple of without",
                "set logscale xy 2\nset key top left", directory)

def method(boots):
    worst = max((b.meta.get("lockstep", {}).get("timeouts", 0) for b in boots), default=0)
    idle = [b.meta["lockstep"]["idle"] for b in boots if "lockstep" in b.meta]
    return (f"in each column: rate; of the rate of one vCPU times their number; quantum {QUANTA[0]} against\n"
            f"{QUANTA[1]}, the method's error.  Time-outs per quantum: at most {worst:.4f}; idle CPUs: "
            f"{100 * min(idle, default=0):.0f} to {100 * max(idle, default=0):.0f} %\n"
            "published: by its authors, on x86 hardware, 2023 (bench/published); only the ratio can be compared")

def scale(archs):
    plot.check()
    if archs[:1] == ["--plan"]:
        return run.show_plan(run.plan(archs[1:], "scale", default_mode=True))
    wanted = list(requests(archs))
    this, points = run.Run("scale"), {}
    try:
        for number, (vcpus, request) in enumerate(wanted, 1):
            print(f"  {number}/{len(wanted)}  {request.name}, {vcpus} vCPUs, quantum {request.lockstep.quantum}", flush=True)
            points.setdefault(request.name, []).extend(points_of(this.boot(request), vcpus))
    finally:
        points = {name: found for name, found in points.items() if found}
        tables = ["\n".join(table(name, found)) for name, found in points.items()]
        status = this.finish("\n\n".join([*tables, method(this.boots)]) + "\n" if tables else "")
    return plot.afterwards(status, draw, this.directory, points) if points else status

if __name__ == "__main__":
    sys.exit(run.main(scale, sys.argv[1:]))
