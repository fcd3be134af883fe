# SPDX-License-Identifier: GPL-2.0
"""What there is to run, and where: selftests/cases, bench/cases, bench/scale; known failures."""
import dataclasses
import fnmatch
import pathlib
import re
from collections.abc import Iterator, Sequence

from ci.facts import arch as arch_
from ci.facts.base import Base
from ci.facts.text import ROOT, BadInput, rows

NAME = re.compile(r"[a-z0-9_]+")
# What selftests/, bench/ and perf in the guest have to run
FILES = {"tests": ROOT / "selftests/cases", "bench": ROOT / "bench/cases",
         "scale": ROOT / "bench/scale", "profile": ROOT / "bench/scale"}
OURS = ("selftests", "bench")


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    archs: tuple[str, ...]  # "all", or architectures and architecture/modes
    needs: str    # "series": must skip on the base; "-": must run on both kernels;
                  # "debug": as series, and exists with CONFIG=debug only
    seconds: int  # limit on hardware
    command: tuple[str, ...]

    @property
    def ours(self) -> bool:
        """Whether its program is this repository's, not upstream's."""
        return any((ROOT / place / f"{self.command[0]}.c").exists() for place in OURS)


def known_machines() -> Iterator[str]:
    """Every architecture, and every architecture/mode."""
    for name in arch_.names():
        yield name
        yield from (f"{name}/{mode.name}" for mode in arch_.load(name).modes)


def parse(line: str, where: str, machines: frozenset[str]) -> Case:
    words = line.split()
    if len(words) < 5:
        raise BadInput(f"{where}: want name, arch, needs, seconds, command; got: {line}")
    name, archs, needs, seconds, *command = words
    if not NAME.fullmatch(name):
        raise BadInput(f"{where}: a name has only a-z, 0-9 and _; got: {name}")
    for arch in archs.split(","):
        if arch != "all" and arch not in machines:
            raise BadInput(f"{where}: no such architecture or mode: {arch}")
    if needs not in ("-", "series", "debug"):
        raise BadInput(f"{where}: needs is \"series\", \"debug\" or \"-\"; got: {needs}")
    if not seconds.isdigit() or not int(seconds):
        raise BadInput(f"{where}: seconds is a whole number above 0; got: {seconds}")
    return Case(name, tuple(archs.split(",")), needs, int(seconds), tuple(command))


def load(path: pathlib.Path) -> list[Case]:
    found: dict[str, Case] = {}
    machines = frozenset(known_machines())
    for where, line in rows(path):
        case = parse(line, where, machines)
        if case.name in found:
            raise BadInput(f"{where}: a second case called {case.name}")
        found[case.name] = case
    return list(found.values())


def select(path: pathlib.Path, arch: str, mode: str, base: Base, patterns: Sequence[str] = (),
           config: str = "") -> list[Case]:
    """The cases for one mode of an architecture that any of the shell globs matches."""
    place = f"{arch}/{mode}"
    if place in base.lacks:
        return []
    names = {place} if arch_.load(arch).mode(mode).named else {"all", arch, place}
    return [case for case in load(path)
            if names & set(case.archs) and case.name not in base.lacks
            and (case.needs != "debug" or config == "debug")
            and (not patterns or any(fnmatch.fnmatchcase(case.name, p) for p in patterns))]


@dataclasses.dataclass(frozen=True)
class KnownFailure:
    case: str      # shell pattern
    arch: str
    accel: str
    output: re.Pattern[str]
    why: str

    @property
    def sometimes(self) -> bool:
        """It may pass as well, on the base or the series."""
        return self.why.startswith("sometimes: ")

    def concerns(self, case: str, arch: str, accel: str) -> bool:
        return fnmatch.fnmatchcase(case, self.case) and (arch, accel) == (self.arch, self.accel)


def load_known(path: pathlib.Path = ROOT / "selftests" / "known-failures") -> list[KnownFailure]:
    found = []
    for where, line in rows(path):
        fields = line.split(" | ")
        if len(fields) != 5:
            raise BadInput(f"{where}: want case | architecture | accelerator | output | why")
        case, arch, accel, output, why = fields
        found.append(KnownFailure(case, arch, accel, re.compile(output, re.DOTALL), why))
    return found
