# SPDX-License-Identifier: GPL-2.0
"""The case files, selftests/cases, bench/cases and bench/scale: what to run, and where."""
import dataclasses
import fnmatch
import os
import pathlib
import re

from ci.facts.arch import ROOT, BadInput, bases, read_facts
from ci.facts.arch import load as load_arch
from ci.facts.arch import names as arch_names

NAME = re.compile(r"[a-z0-9_]+")


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    archs: tuple  # "all", or architectures and architecture/modes
    needs: str    # "series": must skip on the base; "-": must run on both kernels;
                  # "debug": as series, and exists with CONFIG=debug only
    seconds: int  # limit on hardware
    command: tuple


def known_machines():
    """Every architecture, and every architecture/mode."""
    for name in arch_names():
        yield name
        yield from (f"{name}/{mode.name}" for mode in load_arch(name).modes)


def parse_line(line, where):
    words = line.split()
    if len(words) < 5:
        raise BadInput(f"{where}: want name, arch, needs, seconds, command; got: {line}")
    name, archs, needs, seconds, *command = words
    if not NAME.fullmatch(name):
        raise BadInput(f"{where}: a name has only a-z, 0-9 and _; got: {name}")
    for arch in archs.split(","):
        if arch != "all" and arch not in known_machines():
            raise BadInput(f"{where}: no such architecture or mode: {arch}")
    if needs not in ("-", "series", "debug"):
        raise BadInput(f"{where}: needs is \"series\", \"debug\" or \"-\"; got: {needs}")
    if not seconds.isdigit() or not int(seconds):
        raise BadInput(f"{where}: seconds is a whole number above 0; got: {seconds}")
    return Case(name, tuple(archs.split(",")), needs, int(seconds), tuple(command))


def load(path):
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            case = parse_line(line, f"{path}:{number}")
            if any(case.name == other.name for other in found):
                raise BadInput(f"{path}:{number}: a second case called {case.name}")
            found.append(case)
    return found


def lacking():
    """Names of cases and of architecture/modes that the base has nothing for, as its file says."""
    facts = read_facts(ROOT / "kernel-patches" / (os.environ.get("BASE") or bases()[0]) / "base")
    return set(facts.get("lacks", "").split())


def select(path, arch, mode, patterns=(), config=""):
    """The cases for one mode of an architecture that any of the shell globs matches."""
    named = next(m for m in load_arch(arch).modes if m.name == mode).named
    names = {f"{arch}/{mode}"} if named else {"all", arch, f"{arch}/{mode}"}
    lacks = lacking()
    return [] if f"{arch}/{mode}" in lacks else [case for case in load(path) if names & set(case.archs)
            and case.name not in lacks
            and (case.needs != "debug" or config == "debug")
            and (not patterns or any(fnmatch.fnmatchcase(case.name, p) for p in patterns))]


def default_path(kind):
    """Where the cases of a kind are; CASES_FILE= is for the harness' own tests."""
    if "CASES_FILE" in os.environ:
        return pathlib.Path(os.environ["CASES_FILE"])
    return ROOT / {"tests": "selftests/cases", "bench": "bench/cases", "scale": "bench/scale",
                   "profile": "bench/scale"}[kind]


@dataclasses.dataclass(frozen=True)
class KnownFailure:
    case: str      # shell pattern
    arch: str
    accel: str
    output: re.Pattern
    why: str

    @property
    def sometimes(self):
        """It may pass as well, on the base or the series."""
        return self.why.startswith("sometimes: ")

    def concerns(self, case, arch, accel):
        return fnmatch.fnmatchcase(case, self.case) and (arch, accel) == (self.arch, self.accel)


def load_known(path=ROOT / "selftests" / "known-failures"):
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            fields = line.split(" | ")
            if len(fields) != 5:
                raise BadInput(f"{path}:{number}: want case | architecture | accelerator | output | why")
            found.append(KnownFailure(*fields[:3], re.compile(fields[3], re.DOTALL), fields[4]))
    return found
