# SPDX-License-Identifier: GPL-2.0
"""make profile: what limits each mode: events of a fault, where the CPUs are, contended locks.

Two boots for an architecture and a number of vCPUs, of a kernel with CONFIG=profile:
- bench/lockstep/ notes at the end of each CPU's quantum what it executes: a profile in the
  lockstep model, which sees code that has interrupts off as well;
- Debian's perf runs in the guest (bench/profile).  Its clock means nothing here: numbers of
  events count, and which locks and stacks stand out.  On arm64 it has no stacks of a CPU that
  a vCPU is loaded on: their contention is one line, of "Unknown".

Each fault has to be one exit to userspace, or none; this is checked.
"""
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator

from ci.boot import request as request_
from ci.boot.request import Request
from ci.build import images
from ci.config import Config
from ci.facts.text import BadInput
from ci.judge.check import Check, Status
from ci.judge.results import Boot, Run
from ci.measure import flame, scaling, tables
from ci.measure.symbols import Symbols

MODES = (scaling.WITHOUT, scaling.SHARDED, scaling.WITH)
VCPUS = (16,)
# How many functions are listed, and what share in per cent is too small for one
MOST_FUNCTIONS, LEAST_SHARE = 8, 1
EXITS = "kvm:kvm_userspace_exit"
# More of them, of each vCPU: for the warm-up and each timed part, the guest's report and a
# KVM_RUN that completes it
MORE_EXITS = 2 * (1 + len(scaling.QUANTA))
EVENT = re.compile(r"(\d+)\s+(\w+:\w+)\s.*")
SECTION = re.compile(r"^== (\w+)\n", re.MULTILINE)
KERNEL = 1 << 63
Sections = dict[str, list[str]]
Shares = list[tuple[float, str]]


def settled(config: Config) -> Config:
    return dataclasses.replace(config, config="profile", cases=config.cases or MODES,
                               vcpus=scaling.numbers_of_vcpus(config.vcpus or VCPUS))


def requests(config: Config) -> Iterator[tuple[Request, Request]]:
    """(the boot with samples, the boot with perf) for each architecture and number of vCPUs"""
    for sampled, perf in zip(*(request_.requests(config, kind, default_mode=True)
                               for kind in ("scale", "profile"))):
        initramfs = perf.initramfs.with_name("initramfs-profile.cpio")
        perf = dataclasses.replace(perf, initramfs=initramfs)
        symbols = Symbols(sampled.kernel.with_suffix(".map"))
        spin = symbols.address("__lock_text_start"), symbols.address("__lock_text_end")
        for vcpus in config.vcpus:
            yield (scaling.with_lockstep(sampled, vcpus, spin=(spin,)),
                   scaling.with_lockstep(perf, vcpus, boot=2))


def shares(samples: scaling.Samples, symbols: Symbols) -> Shares:
    """[(per cent of all samples, function)], the largest first"""
    counts: dict[str, int] = {}
    for (kind, address), count in samples.items():
        kernel = symbols.name(address) or "?"
        name = (("a spinlock's code, from " if kind == "spin" else "")
                + (kernel if address & KERNEL else "userspace, or the guest"))
        counts[name] = counts.get(name, 0) + count
    total = sum(counts.values())
    return sorted(((100 * (count / total), name) for name, count in counts.items()), reverse=True)


def sections(output: str) -> Sections:
    """{name: lines} of what bench/profile printed."""
    _, *parts = SECTION.split(output)
    found = {name: text.splitlines() for name, text in zip(parts[::2], parts[1::2])}
    missing = {"counts", "exits", "locks", "stacks"} - {name for name, content in found.items()
                                                        if any(map(str.strip, content))}
    if missing:
        raise BadInput(f"nothing under {', '.join(sorted(missing))} from bench/profile")
    return found


def faults_of(lines: Iterable[str]) -> tuple[int, int]:
    """(faults, vCPUs) that the program says that it had, warm-up and all."""
    records = [json.loads(line) for line in lines if line.startswith("{")]
    if not records:
        raise BadInput("scale_bench has left no record")
    return sum(record["pages"] + record["warm"] for record in records), records[0]["vcpus"]


def counts(lines: Iterable[str]) -> dict[str, int]:
    """{event: how often}"""
    return {match[2]: int(match[1]) for match in map(EVENT.match, map(str.strip, lines)) if match}


def exits_expected(mode: str, faults: int, vcpus: int) -> tuple[int, int]:
    """(at least, at most): where vCPUs share the pages, each of them may exit for each."""
    more, faults = MORE_EXITS * vcpus, faults if mode.startswith(("fast_", "sigbus_")) else 0
    return more + faults, more + faults * (vcpus if mode.endswith("_overlap") else 1)


def check_counts(mode: str, lines: list[str]) -> str:
    exits, (least, most) = counts(lines).get(EXITS, 0), exits_expected(mode, *faults_of(lines))
    return "" if least <= exits <= most else f"{EXITS}: {exits}, want {least} to {most}"


def described(mode: str, content: Sections, hot: Shares) -> tables.Row:
    """What a document says of a mode."""
    faults, vcpus = faults_of(content["counts"])
    return {"mode": mode,
            "events": [{"event": event,
                        "per_fault": (times - MORE_EXITS * vcpus * (event == EXITS)) / faults}
                       for event, times in counts(content["counts"]).items()],
            "hot": [{"function": name, "share": share} for share, name in hot[:MOST_FUNCTIONS]
                    if share >= LEAST_SHARE],
            **{name: [line.rstrip() for line in content[name] if line.strip()]
               for name in ("exits", "locks")}}


def sampled_parts(boot: Boot) -> dict[str, scaling.Part]:
    """By mode, of the first quantum."""
    passed = [r.name for r in boot.outcome.stream.results if r.status == "pass"]
    parts = scaling.read_lockstep(boot.directory / "lockstep")[0][::len(scaling.QUANTA)]
    if len(parts) != len(passed) or not all(part.samples for part in parts):
        raise BadInput(f"{len(passed)} modes passed, {len(parts)} were sampled")
    return dict(zip(passed, parts))


def profiles_of(sampled: Boot, perf: Boot) -> list[tuple[tables.Row, flame.Frame]]:
    """What a document says of each mode, and its stacks.  Problems become findings."""
    found, place = [], sampled
    try:
        parts = sampled_parts(sampled)
        symbols, place = Symbols(sampled.request.kernel.with_suffix(".map")), perf
        outputs = {r.name: r.output for r in perf.outcome.stream.results if r.status == "pass"}
        for mode, part in parts.items():
            content = sections(outputs[mode]) if mode in outputs else {}
            problem = check_counts(mode, content["counts"]) if content else "not profiled"
            if problem:
                perf.findings.append(Check(Status.HARNESS, problem, mode, "tests.ktap"))
            else:
                found.append((described(mode, content, shares(part.samples, symbols)),
                              flame.read_folded(content["stacks"])))
    except (BadInput, OSError, ValueError, KeyError) as error:
        place.findings.append(Check(Status.HARNESS, f"no profile: {error}", where="tests.ktap"))
    return found


def boot_pair(run: Run, sampled: Request, perf: Request) -> tables.Row:
    vcpus = scaling.lockstep_of(sampled).vcpus
    title = f"{sampled.name}, {vcpus} vCPUs"
    print(f"  {title}", flush=True)
    modes = []
    for row, stacks in profiles_of(run.boot(sampled), run.boot(perf)):
        modes.append(row)
        flame.draw(run.directory / f"flame-{sampled.arch.name}-{row['mode']}-{vcpus}.svg",
                   f"{title}, {row['mode']}: the kernel by cpu-clock, which cannot look into code "
                   "that has interrupts off", stacks)
    return {"name": sampled.name, "vcpus": vcpus, "release": sampled.release, "modes": modes}


def build(config: Config) -> None:
    images.build(config)
    for arch in config.archs:
        images.extra_initramfs(config, arch, "profile", PERF=str(images.perf(config, arch)))


def profile(config: Config) -> int:
    full = settled(config)
    request_.show_plan(request_.plan(full, "profile", default_mode=True))
    if not config.images:
        build(full)
    with images.booting(config):
        wanted = list(requests(full))
        # The command to repeat a boot names no CONFIG=: profile sets it itself.
        run, machines = Run(config, "profile"), []
        try:
            for sampled, perf in wanted:
                machines.append(boot_pair(run, sampled, perf))
        finally:
            status = tables.finish(run, tables.document("profile", run.boots, machines))
    return status
