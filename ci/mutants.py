#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Break the series in known ways, and see which case notices.

usage: mutants.py ARCH...    (what make check-mutants calls)

A mutant is a patch on top of the series, kernel-patches/mutants/BASE/NAME.patch.  What
stands before its diff says what is wrong, and
	Arch:       where it is tried
	Mode:       in which mode, if not the architecture's first
	Killed-by:  the cases that must fail, each of them; those that the mode does not
	            have are left out
It is killed if all of these fail, time out, skip, or find the kernel complaining.  Once
the machine is lost, the cases that did not get their turn count as well.

The knobs are those of run.py, and MUTANTS (shell patterns), GUEST (the make command that
builds one kernel), TREE (the series, applied, for this alone).

Writes results/RUN/mutants-ARCH.txt and, without MUTANTS, results/mutants-ARCH.txt.
Exit status: 0, or 1 if a mutant survived, 2 if one could not be tried.
"""
import dataclasses
import fnmatch
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time

import arch as arch_
import cases as cases_
import guest
import run
from arch import ROOT, BadInput
from verdict import Verdict

HEADER = re.compile(r"(Arch|Mode|Killed-by): (.*)")
KILLS = (Verdict.FAIL, Verdict.TIMEOUT, Verdict.SPLAT, Verdict.LOST, Verdict.SKIP)
# Not scaled.  A case takes a second or two; one that a mutant has hanging, this long.
CASE_SECONDS = 8


@dataclasses.dataclass(frozen=True)
class Mutant:
    name: str
    why: str
    archs: tuple
    mode: str
    killers: tuple
    path: pathlib.Path


def load(path):
    head, marker, _ = path.read_text().partition("\ndiff --git ")
    why = head.splitlines()[0] if head else ""
    words = {"Arch": [], "Mode": [], "Killed-by": []}
    for line in head.splitlines():
        match = HEADER.fullmatch(line)
        if match:
            words[match[1]] += match[2].split()
    if not (marker and why and words["Arch"] and words["Killed-by"]):
        raise BadInput(f"{path}: want what is wrong, Arch:, Killed-by: and a diff")
    known = {case.name for case in cases_.load(cases_.default_path("tests"))}
    unknown = set(words["Killed-by"]) - known
    if unknown:
        raise BadInput(f"{path}: no such case: {' '.join(sorted(unknown))}")
    return Mutant(path.stem, why, tuple(words["Arch"]), "".join(words["Mode"]),
                  tuple(words["Killed-by"]), path)


def load_all(base, patterns=()):
    mutants = [load(path) for path in sorted((ROOT / "kernel-patches" / "mutants" / base).glob("*.patch"))]
    chosen = [m for m in mutants if not patterns or any(fnmatch.fnmatchcase(m.name, p) for p in patterns)]
    if not chosen:
        raise BadInput(f"no mutants in kernel-patches/mutants/{base} match MUTANTS={' '.join(patterns)}")
    return chosen


def git(tree, *argv):
    done = subprocess.run(["git", "-C", tree, *argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BadInput(f"git {argv[0]} in {tree}: {done.stderr.strip()}")


def build(arch, log):
    """One kernel, with what is in the tree.  False if it does not compile."""
    image = pathlib.Path(run.knob("OUT")) / "mutant" / f"{arch}.kernel"
    command = [*shlex.split(run.knob("GUEST")), f"ARCH={arch}", str(image)]
    with open(log, "wb") as stream:
        return subprocess.call(command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL) == 0


def judge(boot, killers):
    """(killers that noticed, killers that did not, what went wrong with the trial)"""
    noticed = {f.case: f.verdict for f in boot.findings if f.verdict in KILLS and f.case}
    lost = any(f.verdict in (Verdict.LOST, Verdict.TIMEOUT) and "tests.ktap" not in f.where
               for f in boot.findings)
    heard = {r.name for r in boot.outcome.stream.results}
    missed = [k for k in killers if k not in noticed and not (lost and k not in heard)]
    trouble = [f.text for f in boot.findings if f.verdict == Verdict.HARNESS and not lost]
    return [k for k in killers if k in noticed], missed, trouble


def try_mutant(this, mutant, arch):
    """Returns (verdict, text) for the table."""
    directory = this.directory / f"{arch.name}-{mutant.name}"
    directory.mkdir()
    tree = run.knob("TREE")
    git(tree, "checkout", "-q", "--", ".")
    git(tree, "apply", str(mutant.path))
    if not build(arch.name, directory / "build.log"):
        return "ERROR", f"does not build, see {directory}/build.log"
    mode = mutant.mode or arch.modes[0].name
    os.environ.update(MODE=mode, CASES=" ".join(mutant.killers), TIMEOUT=str(CASE_SECONDS))
    killers = [c.name for c in cases_.select(cases_.default_path("tests"), arch.name, mode, mutant.killers)]
    os.environ["CASES"] = " ".join(killers)
    request, = run.requests([arch.name], "tests")
    request = dataclasses.replace(request, initramfs=request.kernel.with_name(f"{arch.name}.cpio"))
    boot = this.judge(request, directory, guest.run(request, directory))
    noticed, missed, trouble = judge(boot, killers)
    if trouble:
        return "ERROR", "; ".join(trouble)
    if missed or not noticed:
        return "SURVIVED", "not noticed by " + " ".join(missed or killers)
    lost = "" if len(noticed) == len(killers) else " (and the machine is lost)"
    return "killed", "by " + " ".join(noticed) + lost


def row(mutant, where, verdict, text):
    return f"{mutant:<36} {where:<11} {verdict:<9} {text}"


def unproven(mutants, arch):
    """Our own cases that no mutant of this architecture names."""
    named = {killer for m in mutants if arch.name in m.archs for killer in m.killers}
    wanted = {c.name for mode in arch.modes
              for c in cases_.select(cases_.default_path("tests"), arch.name, mode.name)
              if c.command[0].startswith("memslot_") and c.needs != "debug"
              and (ROOT / "selftests" / f"{c.command[0]}.c").exists()}
    return sorted(wanted - named)


def try_all(this, mutants, arch):
    lines, verdicts = [], []
    mine = [m for m in mutants if arch.name in m.archs]
    for number, mutant in enumerate(mine, 1):
        start = time.monotonic()
        verdict, text = try_mutant(this, mutant, arch)
        verdicts.append(verdict)
        lines.append(row(mutant.name, f"{arch.name}/{mutant.mode or arch.modes[0].name}", verdict, text))
        print(f"  {number}/{len(mine)} {time.monotonic() - start:3.0f} s  {lines[-1]}", flush=True)
    return lines, verdicts


def report(arch, lines, verdicts, mutants, whole):
    release = (pathlib.Path(run.knob("OUT")) / "patched" / f"{arch.name}.release").read_text().strip()
    missing = unproven(mutants, arch)
    head = [f"{len(verdicts)} mutants of {release}: {verdicts.count('killed')} killed, "
            f"{verdicts.count('SURVIVED')} survived, {verdicts.count('ERROR')} not tried", ""]
    tail = ["", "cases that no mutant names, besides those of CONFIG=debug: " + (" ".join(missing) or "none")] if whole else []
    return "\n".join(head + lines + tail) + "\n"


def main(argv):
    patterns = run.knob("MUTANTS").replace(",", " ").split()
    mutants = load_all(run.knob("BASE"), patterns)
    os.environ["SERIES"] = "mutant"
    this, verdicts = run.Run("mutants"), []
    for arch in map(arch_.load, argv):
        lines, found = try_all(this, mutants, arch)
        text = report(arch, lines, found, mutants, not patterns)
        (this.directory / f"mutants-{arch.name}.txt").write_text(text)
        if not patterns:
            (ROOT / "results" / f"mutants-{arch.name}.txt").write_text(text)
        print("\n".join(line for line in text.splitlines() if not line.startswith(tuple(m.name for m in mutants))))
        verdicts += found
    git(run.knob("TREE"), "checkout", "-q", "--", ".")
    return 2 if "ERROR" in verdicts else int("SURVIVED" in verdicts)


if __name__ == "__main__":
    sys.exit(run.main(main, sys.argv[1:]))
