# SPDX-License-Identifier: GPL-2.0
"""make profile: what limits each mode: events of a fault, where the CPUs are, contended locks.

Two boots for an architecture and a number of vCPUs, of a kernel with CONFIG=profile.  In one,
bench/lockstep/ samples what each CPU executes at the end of its quantum, with interrupts off
too.  In the other, perf runs (bench/profile): its counts mean something, its clock nothing.
"""
import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterator

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
EVENT = re.compile(r"\s*(\d+)\s+(\w+:\w+)\s.*")
SECTION = re.compile(r"^== (\w+)\n", re.MULTILINE)
KERNEL = 1 << 63


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


# --- the boot with samples ---

def sampled_parts(boot: Boot) -> dict[str, scaling.Part]:
    """By mode, of the first quantum."""
    modes = tables.passed(boot)
    parts = scaling.read_lockstep(boot.directory / "lockstep")[0][::len(scaling.QUANTA)]
    if len(parts) != len(modes) or not all(part.samples for part in parts):
        raise BadInput(f"{len(modes)} modes passed, {len(parts)} were sampled")
    return dict(zip(modes, parts))


def hot(samples: scaling.Samples, symbols: Symbols) -> list[tables.Row]:
    """The functions that most samples are of."""
    counts: Counter[str] = Counter()
    for (kind, address), count in samples.items():
        name = symbols.name(address) or "?" if address & KERNEL else "userspace, or the guest"
        counts[f"spinlock code, called from {name}" if kind == "spin" else name] += count
    shares = sorted(((100 * (count / counts.total()), name) for name, count in counts.items()),
                    reverse=True)
    return [{"function": name, "share": share} for share, name in shares[:MOST_FUNCTIONS]
            if share >= LEAST_SHARE]


# --- the boot with perf ---

@dataclasses.dataclass(frozen=True)
class Perf:
    """What bench/profile says of a mode."""
    faults: int              # of all vCPUs, warm-up and all
    vcpus: int
    events: dict[str, int]   # how often
    lists: tables.Row        # "exits" and "locks", as perf prints them
    stacks: list[str]

    def problem(self, mode: str) -> str:
        """A fault is one exit to userspace, or none; or one of each vCPU that shares its page."""
        faults = self.faults if mode.startswith(("fast_", "sigbus_")) else 0
        least = MORE_EXITS * self.vcpus + faults
        most = least + faults * (self.vcpus - 1) * mode.endswith("_overlap")
        exits = self.events.get(EXITS, 0)
        return "" if least <= exits <= most else (
            f"{EXITS}: {exits} exits to userspace, expected {least} to {most}")

    def row(self, mode: str, functions: list[tables.Row]) -> tables.Row:
        """What a document says of the mode."""
        more = {EXITS: MORE_EXITS * self.vcpus}
        events = [{"event": event, "per_fault": (times - more.get(event, 0)) / self.faults}
                  for event, times in self.events.items()]
        return {"mode": mode, "events": events, "hot": functions, **self.lists}


def read_perf(output: str) -> Perf:
    _, *parts = SECTION.split(output)
    found = {name: [line.rstrip() for line in text.splitlines() if line.strip()]
             for name, text in zip(parts[::2], parts[1::2])}
    missing = [name for name in ("counts", "exits", "locks", "stacks") if not found.get(name)]
    if missing:
        raise BadInput(f"nothing under {', '.join(missing)} from bench/profile")
    records = [json.loads(line) for line in found["counts"] if line.startswith("{")]
    if not records:
        raise BadInput("scale_bench has left no record")
    events = {match[2]: int(match[1]) for match in map(EVENT.fullmatch, found["counts"]) if match}
    return Perf(sum(record["pages"] + record["warm"] for record in records), records[0]["vcpus"],
                events, {name: found[name] for name in ("exits", "locks")}, found["stacks"])


# --- both ---

def profiles_of(sampled: Boot, perf: Boot) -> list[tuple[tables.Row, flame.Frame]]:
    """What a document says of each mode, and its stacks.  Problems become findings."""
    found = []
    parts: dict[str, scaling.Part] = {}
    with tables.problems(sampled, "tests.ktap", "no profile: "):
        parts = sampled_parts(sampled)
    with tables.problems(perf, "tests.ktap", "no profile: "):
        symbols, outputs = Symbols(perf.request.kernel.with_suffix(".map")), tables.passed(perf)
        seen = {mode: read_perf(outputs[mode]) for mode in parts if mode in outputs}
        for mode, part in parts.items():
            problem = seen[mode].problem(mode) if mode in seen else "not profiled"
            if problem:
                perf.findings.append(Check(Status.HARNESS, problem, mode, "tests.ktap"))
            else:
                found.append((seen[mode].row(mode, hot(part.samples, symbols)),
                              flame.read_folded(seen[mode].stacks)))
    return found


def boot_pair(run: Run, sampled: Request, perf: Request) -> tables.Row:
    vcpus = scaling.lockstep_of(sampled).vcpus
    title = f"{sampled.name}, {vcpus} vCPUs"
    print(f"  {title}", flush=True)
    profiles = profiles_of(run.boot(sampled), run.boot(perf))
    for row, stacks in profiles:
        flame.draw(run.directory / f"flame-{sampled.arch.name}-{row['mode']}-{vcpus}.svg",
                   f"{title}, {row['mode']}: the kernel by cpu-clock, which cannot look into code "
                   "that has interrupts off", stacks)
    return {"name": sampled.name, "vcpus": vcpus, "release": sampled.release,
            "modes": [row for row, _ in profiles]}


def profile(config: Config) -> int:
    full = settled(config)
    request_.show_plan(request_.plan(full, "profile", default_mode=True))
    if not config.images:
        images.build(full)
        for arch in full.archs:
            images.extra_initramfs(full, arch, "profile")
    with images.booting(config):
        wanted, machines = list(requests(full)), []
        # The command to repeat a boot names no CONFIG=: profile sets it itself.
        run = Run(config, "profile")
        try:
            for sampled, perf in wanted:
                machines.append(boot_pair(run, sampled, perf))
        finally:
            status = tables.finish(run, tables.document("profile", run.boots, machines))
    return status
