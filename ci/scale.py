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
import run
from arch import BadInput
from verdict import Finding, Verdict

# The first is the one that the table has.  Longer ones let a CPU spin for a lock whose
# holder has used its quantum up; shorter ones cost host time.
QUANTA = (250, 500)
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

def cell(points, mode, vcpus):
    """The rate, how much of the ideal it is, and the method's error, in per cent."""
    found = {(p.quantum, p.vcpus): p.rate for p in points if p.mode == mode}
    rate, other = (found.get((quantum, vcpus)) for quantum in QUANTA)
    if rate is None or other is None:
        return f"{'-':>8} {'-':>5} {'-':>5}"
    single = found.get((QUANTA[0], 1))
    efficiency = f"{100 * rate / vcpus / single:.0f}%" if single else ""
    return f"{rate:8.0f} {efficiency:>5} {100 * abs(rate - other) / rate:4.0f}%"

def table(name, points):
    """The lines of one architecture's table."""
    numbers = sorted({p.vcpus for p in points})
    yield f"{name}: pages per million instructions of critical path, all vCPUs together"
    yield "lockstep model: serialisation only, no caches, no coherence"
    yield f"{'vCPUs':20}" + "".join(f"{n:>8} {'eff.':>5} {'err.':>5}" for n in numbers)
    for mode in dict.fromkeys(p.mode for p in points):
        yield f"{mode:20}" + "".join(cell(points, mode, n) for n in numbers)

def method(boots):
    worst = max((b.meta.get("lockstep", {}).get("timeouts", 0) for b in boots), default=0)
    idle = [b.meta["lockstep"]["idle"] for b in boots if "lockstep" in b.meta]
    return (f"eff.: of the rate of one vCPU times their number; err.: quantum {QUANTA[0]} against {QUANTA[1]}; "
            f"time-outs per quantum: at most {worst:.4f}; idle CPUs: {100 * min(idle, default=0):.0f} to "
            f"{100 * max(idle, default=0):.0f} %")

def scale(archs):
    if archs[:1] == ["--plan"]:
        return run.show_plan(run.plan(archs[1:], "scale", default_mode=True))
    wanted = list(requests(archs))
    this, points = run.Run("scale"), {}
    try:
        for number, (vcpus, request) in enumerate(wanted, 1):
            print(f"  {number}/{len(wanted)}  {request.name}, {vcpus} vCPUs, quantum {request.lockstep.quantum}", flush=True)
            points.setdefault(request.name, []).extend(points_of(this.boot(request), vcpus))
    finally:
        tables = ["\n".join(table(name, found)) for name, found in points.items() if found]
        status = this.finish("\n\n".join([*tables, method(this.boots)]) + "\n" if tables else "")
    return status

if __name__ == "__main__":
    sys.exit(run.main(scale, sys.argv[1:]))
