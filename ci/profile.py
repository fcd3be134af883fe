#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Say what limits each mode: events of a fault, where the CPUs are, which locks they wait for.

usage: profile.py [--plan] ARCH...    (what make profile calls; knobs: CASES, VCPUS, and run.py's)

Two boots for an architecture and a number of vCPUs, of a kernel with CONFIG=profile:
- bench/lockstep/ notes at the end of each CPU's quantum what it executes: a profile in the
  lockstep model, which interrupts that are off cannot hide anything from;
- Debian's perf runs in the guest (bench/profile).  Its clock means nothing here: what counts
  are numbers of events, and which locks and stacks stand out.  On arm64 it has no stacks of
  a CPU that a vCPU is loaded on: what is contended then is one line, of "Unknown".

Exit status: ci/verdict.py has the list.  That an exit to userspace is one a fault, or none,
is checked.
"""
import bisect
import dataclasses
import json
import os
import re
import sys

import flame
import run
import scale
from arch import BadInput
from verdict import Finding, Verdict

MODES = (scale.WITHOUT, scale.SHARDED, scale.WITH)
VCPUS = "16"
# How many lines of each list are shown, and what share is too small for one
MOST_LINES, LEAST_SHARE = 8, 0.01
# Exits to userspace for each fault; the run has a few more, two for each vCPU
EXITS, EXITS_ERROR = "kvm:kvm_userspace_exit", 0.01
EVENT = re.compile(r"(\d+)\s+(\w+:\w+)\s.*")
SECTION = re.compile(r"== (\w+)")
KERNEL = 1 << 63


def check_knobs():
    os.environ["VCPUS"] = run.knob("VCPUS", VCPUS)
    os.environ["CASES"] = run.knob("CASES", " ".join(MODES))
    return scale.numbers_of_vcpus()


def requests(archs):
    """(the boot with samples, the boot with perf) for each architecture and number of vCPUs"""
    for sampled, perf in zip(run.requests(archs, "scale", default_mode=True), run.requests(archs, "profile", default_mode=True)):
        perf = dataclasses.replace(perf, initramfs=perf.initramfs.with_name("initramfs-profile.cpio"))
        spin = Symbols(sampled.kernel.with_suffix(".map")).range("queued_spin_lock_slowpath")
        for vcpus in check_knobs():
            yield (scale.with_lockstep(sampled, vcpus, spin=spin),
                   scale.with_lockstep(perf, vcpus, boot=2))


class Symbols:
    def __init__(self, system_map):
        rows = sorted((int(address, 16), name) for address, kind, name in map(str.split, system_map.read_text().splitlines())
                      if kind in "tTwW")
        self.addresses, self.names = [a for a, _ in rows], [n for _, n in rows]

    def name(self, address):
        if not address & KERNEL:
            return "userspace, or the guest"
        at = bisect.bisect_right(self.addresses, address) - 1
        return self.names[at] if at >= 0 else "?"

    def range(self, name):
        at = self.names.index(name)
        return self.addresses[at], self.addresses[at + 1]


def shares(samples, symbols):
    """[(share of all samples, function)], the largest first"""
    found = {}
    for (kind, address), count in samples.items():
        name = ("waiting for a spinlock in " if kind == "spin" else "") + symbols.name(address)
        found[name] = found.get(name, 0) + count
    total = sum(found.values())
    return sorted(((count / total, name) for name, count in found.items()), reverse=True)


def sections(output):
    """{name: [line]} of what bench/profile printed."""
    found, lines = {}, []
    for line in output.splitlines():
        match = SECTION.fullmatch(line)
        if match:
            lines = found.setdefault(match[1], [])
        else:
            lines.append(line)
    missing = {"counts", "exits", "locks", "stacks"} - set(found)
    if missing:
        raise BadInput(f"no {', '.join(sorted(missing))} from bench/profile")
    return found


def faults_of(lines):
    """How many faults the program says that it had, warm-up and all."""
    records = [json.loads(line) for line in lines if line.startswith("{")]
    if not records:
        raise BadInput("scale_bench has left no record")
    return sum(record["pages"] + record["warm"] for record in records)


def counts(lines):
    """{event: times a fault}"""
    faults = faults_of(lines)
    return {match[2]: int(match[1]) / faults for match in map(EVENT.match, map(str.strip, lines)) if match}


def exits_expected(mode):
    return int(mode.startswith(("fast_", "sigbus_")))


def check_counts(mode, found):
    wanted = exits_expected(mode)
    if EXITS not in found or abs(found[EXITS] - wanted) > EXITS_ERROR:
        return f"{EXITS}: {found.get(EXITS, 'not counted')} a fault, want {wanted}"
    return ""


def indented(lines):
    return [f"    {line.rstrip()}" for line in lines if line.strip()]


def lines_of(mode, found, hot):
    """What is said of one mode."""
    yield f"{mode}: " + ", ".join(f"{event.split(':')[1]} {times:.2f}" for event, times in counts(found["counts"]).items()) + " a fault"
    yield "  what CPUs execute, at the ends of quanta (lockstep model):"
    yield from (f"    {100 * share:5.1f} %  {name}" for share, name in hot[:MOST_LINES] if share >= LEAST_SHARE)
    yield "  KVM's exits (perf kvm stat; times are not to be believed):"
    yield from indented(found["exits"])[:MOST_LINES]
    yield "  contended locks (perf lock contention; of the times, the order counts):"
    yield from indented(found["locks"])[:MOST_LINES]


def boots_of(this, sampled, perf):
    """[(mode, {section: lines}, [(share, function)])] of two boots.  Problems become findings."""
    boot, second = this.boot(sampled), this.boot(perf)
    passed = [r.name for r in boot.outcome.stream.results if r.status == "pass"]
    results = {r.name: r for r in second.outcome.stream.results if r.status == "pass"}
    found = []
    try:
        _, samples, _ = scale.read_lockstep(boot.directory / "lockstep")
        symbols = Symbols(sampled.kernel.with_suffix(".map"))
        for mode, counted in zip(passed, samples[::len(scale.QUANTA)], strict=True):
            parts = sections(results[mode].output) if mode in results else None
            problem = check_counts(mode, counts(parts["counts"])) if parts else "not profiled"
            if problem:
                second.findings.append(Finding(Verdict.HARNESS, mode, problem, "tests.ktap"))
            else:
                found.append((mode, parts, shares(counted, symbols)))
    except (BadInput, OSError, ValueError) as error:
        second.findings.append(Finding(Verdict.HARNESS, "", f"no profile: {error}", "tests.ktap"))
    return found


def profile(archs):
    if archs[:1] == ["--plan"]:
        check_knobs()
        return run.show_plan(run.plan(archs[1:], "profile", default_mode=True))
    check_knobs()
    wanted = list(requests(archs))
    this, text = run.Run("profile"), []
    try:
        for sampled, perf in wanted:
            name = f"{sampled.name}, {sampled.lockstep.vcpus} vCPUs"
            print(f"  {name}", flush=True)
            for mode, parts, hot in boots_of(this, sampled, perf):
                text.append("\n".join([f"{name}, {sampled.release}", *lines_of(mode, parts, hot)]))
                flame.draw(this.directory / f"flame-{sampled.arch.name}-{mode}-{sampled.lockstep.vcpus}.svg",
                           f"{name}, {mode}: cpu-clock, which cannot look into code that has interrupts off", parts["stacks"])
    finally:
        status = this.finish("\n\n".join(text) + "\n" if text else "")
    return status


if __name__ == "__main__":
    sys.exit(run.main(profile, sys.argv[1:]))
