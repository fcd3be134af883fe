# SPDX-License-Identifier: GPL-2.0
"""Say what limits each mode: events of a fault, where the CPUs are, which locks they wait for.

usage: profile.py [--plan] ARCH...    (what make profile calls; knobs: CASES, VCPUS, and run.py's)

Two boots for an architecture and a number of vCPUs, of a kernel with CONFIG=profile:
- bench/lockstep/ notes at the end of each CPU's quantum what it executes: a profile in the
  lockstep model, which interrupts that are off cannot hide anything from;
- Debian's perf runs in the guest (bench/profile).  Its clock means nothing here: what counts
  are numbers of events, and which locks and stacks stand out.  On arm64 it has no stacks of
  a CPU that a vCPU is loaded on: what is contended then is one line, of "Unknown".

Exit status: ci/judge/verdict.py has the list.  That an exit to userspace is one a fault, or none,
is checked.
"""
import dataclasses
import json
import os
import re
import sys

from ci.measure import flame
from ci.judge import results as run
from ci.measure import scaling as scale
from ci.facts.arch import BadInput
from ci.measure.symbols import Symbols
from ci.judge.verdict import Finding, Verdict

MODES = (scale.WITHOUT, scale.SHARDED, scale.WITH)
VCPUS = "16"
# How many lines of each list are shown, and what share is too small for one
MOST_LINES, LEAST_SHARE = 8, 0.01
EXITS = "kvm:kvm_userspace_exit"
# More of them, of each vCPU: for the warm-up and each timed part, the guest's report and a
# KVM_RUN that completes it
MORE_EXITS = 2 * (1 + len(scale.QUANTA))
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
        symbols = Symbols(sampled.kernel.with_suffix(".map"))
        spin = symbols.address("__lock_text_start"), symbols.address("__lock_text_end")
        for vcpus in check_knobs():
            yield (scale.with_lockstep(sampled, vcpus, spin=(spin,)),
                   scale.with_lockstep(perf, vcpus, boot=2))


def function(address, symbols):
    return symbols.name(address) or "?" if address & KERNEL else "userspace, or the guest"


def shares(samples, symbols):
    """[(share of all samples, function)], the largest first"""
    found = {}
    for (kind, address), count in samples.items():
        name = ("a spinlock's code, from " if kind == "spin" else "") + function(address, symbols)
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
    missing = {"counts", "exits", "locks", "stacks"} - {name for name, content in found.items() if any(map(str.strip, content))}
    if missing:
        raise BadInput(f"nothing under {', '.join(sorted(missing))} from bench/profile")
    return found


def faults_of(lines):
    """(faults, vCPUs) that the program says that it had, warm-up and all."""
    records = [json.loads(line) for line in lines if line.startswith("{")]
    if not records:
        raise BadInput("scale_bench has left no record")
    return sum(record["pages"] + record["warm"] for record in records), records[0]["vcpus"]


def counts(lines):
    """{event: how often}"""
    return {match[2]: int(match[1]) for match in map(EVENT.match, map(str.strip, lines)) if match}


def exits_expected(mode, faults, vcpus):
    """(at least, at most): where vCPUs share the pages, each of them may exit for each."""
    more, faults = MORE_EXITS * vcpus, faults if mode.startswith(("fast_", "sigbus_")) else 0
    return more + faults, more + faults * (vcpus if mode.endswith("_overlap") else 1)


def check_counts(mode, lines):
    found, (least, most) = counts(lines).get(EXITS, 0), exits_expected(mode, *faults_of(lines))
    return "" if least <= found <= most else f"{EXITS}: {found}, want {least} to {most}"


def indented(lines):
    return [f"    {line.rstrip()}" for line in lines if line.strip()]


def lines_of(mode, found, hot):
    """What is said of one mode."""
    faults, vcpus = faults_of(found["counts"])
    events = {event: times - MORE_EXITS * vcpus * (event == EXITS) for event, times in counts(found["counts"]).items()}
    yield f"{mode}, events of a fault:"
    yield from (f"    {times / faults:5.2f}  {event}" for event, times in events.items())
    yield "  what CPUs execute, at the ends of quanta (lockstep model):"
    yield from (f"    {100 * share:5.1f} %  {name}" for share, name in hot[:MOST_LINES] if share >= LEAST_SHARE)
    yield "  KVM's exits (perf kvm stat; times are not to be believed):"
    yield from indented(found["exits"])[:MOST_LINES]
    yield "  contended locks, start and end of the program included (perf lock contention):"
    yield from indented(found["locks"])[:MOST_LINES]


def boots_of(this, sampled, perf):
    """[(mode, {section: lines}, [(share, function)], flame.Frame)] of two boots.  Problems become findings."""
    boot, second = this.boot(sampled), this.boot(perf)
    passed = [r.name for r in boot.outcome.stream.results if r.status == "pass"]
    results = {r.name: r for r in second.outcome.stream.results if r.status == "pass"}
    found, place = [], boot
    try:
        parts, _ = scale.read_lockstep(boot.directory / "lockstep")
        # Of the first quantum
        parts = parts[::len(scale.QUANTA)]
        if len(parts) != len(passed) or not all(part.samples for part in parts):
            raise BadInput(f"{len(passed)} modes passed, {len(parts)} were sampled")
        symbols, place = Symbols(sampled.kernel.with_suffix(".map")), second
        for mode, part in zip(passed, parts):
            content = sections(results[mode].output) if mode in results else None
            problem = check_counts(mode, content["counts"]) if content else "not profiled"
            if problem:
                second.findings.append(Finding(Verdict.HARNESS, mode, problem, "tests.ktap"))
            else:
                found.append((mode, content, shares(part.samples, symbols), flame.read_folded(content["stacks"])))
    except (BadInput, OSError, ValueError, KeyError) as error:
        place.findings.append(Finding(Verdict.HARNESS, "", f"no profile: {error}", "tests.ktap"))
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
            for mode, content, hot, stacks in boots_of(this, sampled, perf):
                text.append("\n".join([f"{name}, {sampled.release}", *lines_of(mode, content, hot)]))
                flame.draw(this.directory / f"flame-{sampled.arch.name}-{mode}-{sampled.lockstep.vcpus}.svg",
                           f"{name}, {mode}: the kernel by cpu-clock, which cannot look into code that has interrupts off", stacks)
    finally:
        status = this.finish("\n\n".join(text) + "\n" if text else "")
    return status


if __name__ == "__main__":
    sys.exit(run.main(profile, sys.argv[1:]))
