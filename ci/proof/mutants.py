# SPDX-License-Identifier: GPL-2.0
"""Break the series in known ways, and see which case notices.

usage: mutants.py [--plan] ARCH...    (what make check-mutants calls)

A mutant is a patch on top of the series, kernel-patches/mutants/BASE/NAME.patch.  What
stands before its diff says what is wrong, and
	Arch:       where it is tried
	Mode:       in which mode, if not the architecture's first
	Config:     with which CONFIG=, if any
	Killed-by:  the cases that must fail, each of them; those that the mode does not
	            have are left out
It is killed if all of these fail, time out, skip, or find the kernel complaining, though
all of them pass without it.  Once the kernel has panicked or hangs, the cases that did
not get their turn count as well.

The knobs are those of run.py, and MUTANTS (shell patterns), GUEST (the make command that
builds one kernel), TREE (the series, applied, for this alone: also the kernel without a
mutant is built there).

Writes results/RUN/mutants-ARCH.txt and, if that has all of them, results/mutants-ARCH.txt;
with MUTANTS, the other rows are those that are there, if they are of the same series.
Exit status: 0, or 1 if a mutant survived, 2 if one could not be tried; --plan: only say
what would be tried, or what is wrong with the knobs.
"""
import dataclasses
import fnmatch
import os
import pathlib
import re
import shlex
import sys
import time

from ci.facts import arch as arch_
from ci.facts import cases as cases_
from ci.judge import results as run
from ci.build import progress as step
from ci.facts.arch import ROOT, BadInput
from ci.build.git import git
from ci.judge.verdict import Verdict

HEADER = re.compile(r"(Arch|Mode|Config|Killed-by): (.*)")
KILLS = (Verdict.FAIL, Verdict.TIMEOUT, Verdict.SPLAT, Verdict.LOST, Verdict.SKIP)
# Not scaled.  A case takes a second or two, upstream's demand_paging_test on arm64 eight,
# which the series without a mutant has to show under the same limit; one that a mutant has
# hanging takes this long.  With a configuration of its own, which is slower, the cases' own
# limits hold.
CASE_SECONDS = 15


@dataclasses.dataclass(frozen=True)
class Mutant:
    name: str
    why: str
    archs: tuple
    mode: str
    config: str
    killers: tuple
    path: pathlib.Path

    def setting(self, arch):
        """(mode, configuration): what is booted for it, the kernel aside"""
        return self.mode or arch.modes[0].name, self.config


def load(path):
    head, marker, _ = path.read_text().partition("\ndiff --git ")
    why = head.splitlines()[0] if head else ""
    words = {"Arch": [], "Mode": [], "Config": [], "Killed-by": []}
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
    return Mutant(path.stem, why, tuple(words["Arch"]), "".join(words["Mode"]), "".join(words["Config"]),
                  tuple(words["Killed-by"]), path)


def load_all(base, patterns=(), kind="mutants", read=load):
    """All of a kind in kernel-patches/KIND/BASE whose names match one of the shell patterns."""
    found = [read(path) for path in sorted((ROOT / "kernel-patches" / kind / base).glob("*.patch"))]
    chosen = [m for m in found if not patterns or any(fnmatch.fnmatchcase(m.name, p) for p in patterns)]
    if not chosen:
        raise BadInput(f"nothing in kernel-patches/{kind}/{base} matches MUTANTS={' '.join(patterns)}")
    return chosen




def build(arch, config, log):
    """One kernel, with what is in the tree.  False if it does not compile."""
    image = pathlib.Path(run.knob("OUT")) / "mutant" / f"{arch}{config and '-' + config}.kernel"
    command = [*shlex.split(run.knob("GUEST")), f"ARCH={arch}", f"CONFIG={config}", str(image)]
    with open(log, "wb") as stream:
        return step.call(command, stream) == 0


def judge(boot, killers):
    """(killers that noticed, and how; those that did not; what went wrong with the trial)"""
    found = {f.case: f.verdict for f in boot.findings if f.verdict in KILLS and f.case}
    lost = any(f.verdict in (Verdict.LOST, Verdict.TIMEOUT) and "tests.ktap" not in f.where
               for f in boot.findings)
    trouble = [f.text for f in boot.findings if f.text == run.DISK_IS_FULL or
               f.verdict == Verdict.HARNESS and not lost]
    if boot.outcome.how == "killed" or not boot.outcome.stream.plan:
        trouble += [f.text for f in boot.findings] or ["the machine did not come up"]
    heard = {r.name for r in boot.outcome.stream.results}
    missed = [k for k in killers if k not in found and not (lost and k not in heard)]
    noticed = [k if found[k] == Verdict.FAIL else f"{k}:{found[k].name.lower()}" for k in killers if k in found]
    return noticed, missed, trouble


def request_for(arch, mode, config, names):
    os.environ.update(MODE=mode, CASES=" ".join(names), SERIES="mutant", CONFIG=config,
                      TIMEOUT="" if config else str(CASE_SECONDS))
    request, = run.requests([arch.name], "tests")
    return dataclasses.replace(request, initramfs=request.kernel.with_name(f"{arch.name}.cpio"))


def killers_in(arch, setting, killers):
    """Those that the mode and the configuration have, in the order in which they run."""
    mode, config = setting
    return [c.name for c in cases_.select(cases_.default_path("tests"), arch.name, mode, killers, config)]


def ask_the_series(this, mutants, arch):
    """{setting: {case: what is wrong with it}} of killers that fail without any mutant."""
    wrong = {}
    git(run.knob("TREE"), "checkout", "-q", "--", ".")
    for setting in sorted({m.setting(arch) for m in mutants}):
        mode, config = setting
        label = "-".join(filter(None, (arch.name, mode, config)))
        log = this.directory / f"{label}.build.log"
        if not build(arch.name, config, log):
            raise BadInput(f"the series without a mutant does not build, see {log}")
        names = killers_in(arch, setting, {k for m in mutants if m.setting(arch) == setting for k in m.killers})
        boot = this.trial(request_for(arch, mode, config, names), this.directory / f"{label}-without")
        if any(not f.case for f in boot.findings):
            raise BadInput(f"the series without a mutant, {label}: {boot.findings[0].text}")
        wrong[setting] = {f.case: f.text for f in boot.findings}
        print(f"  {label}: {len(names) - len(wrong[setting])} of {len(names)} cases pass without a mutant", flush=True)
    return wrong


def try_mutant(this, mutant, arch, wrong):
    """Returns (verdict, text) for the table."""
    setting, tree = mutant.setting(arch), run.knob("TREE")
    killers = killers_in(arch, setting, mutant.killers)
    unfit = [f"{k} fails without a mutant: {wrong[setting][k]}" for k in killers if k in wrong[setting]]
    if unfit:
        return "ERROR", "; ".join(unfit)
    log = this.directory / f"{arch.name}-{mutant.name}.build.log"
    git(tree, "checkout", "-q", "--", ".")
    try:
        git(tree, "apply", str(mutant.path))
    except BadInput as error:
        return "ERROR", str(error)
    if not build(arch.name, mutant.config, log):
        return "ERROR", f"does not build, see {log}"
    request = request_for(arch, *setting, killers)
    noticed, missed, trouble = judge(this.trial(request, this.directory / f"{arch.name}-{mutant.name}"), killers)
    if trouble:
        return "ERROR", "; ".join(trouble)
    if missed or not noticed:
        return "SURVIVED", "not noticed by " + " ".join(missed or killers)
    lost = "" if len(noticed) == len(killers) else " (and the machine is lost)"
    return "killed", "by " + " ".join(noticed) + lost


def row(mutant, where, verdict, text):
    return f"{mutant:<36} {where:<15} {verdict:<9} {text}"


def unproven(mutants, arch):
    """Our own cases that no mutant of this architecture names."""
    named = {killer for m in mutants if arch.name in m.archs for killer in m.killers}
    wanted = {c.name for mode in arch.modes
              for c in cases_.select(cases_.default_path("tests"), arch.name, mode.name, config="debug")
              if any((ROOT / place / f"{c.command[0]}.c").exists() for place in ("selftests", "bench"))}
    return sorted(wanted - named)


def try_all(this, mine, arch):
    lines, verdicts = [], []
    wrong = ask_the_series(this, mine, arch)
    for number, mutant in enumerate(mine, 1):
        start = time.monotonic()
        verdict, text = try_mutant(this, mutant, arch, wrong)
        verdicts.append(verdict)
        where = "/".join(filter(None, (arch.name, *mutant.setting(arch))))
        lines.append(row(mutant.name, where, verdict, text))
        print(f"  {number}/{len(mine)} {time.monotonic() - start:3.0f} s  {lines[-1]}", flush=True)
    return lines, verdicts


def release_of(arch):
    return (pathlib.Path(run.knob("OUT")) / "patched" / f"{arch.name}.release").read_text().strip()


TABLE_OF = re.compile(r"\d+ mutants of (\S+):")


def earlier(path, release, mutants):
    """{name: row} of the table that is there, of these mutants.  A row of another series says so."""
    lines = path.read_text().splitlines() if path.exists() else []
    of = TABLE_OF.match(lines[0]) if lines else None
    if not of:
        return {}
    names, when = {m.name for m in mutants}, "" if of[1] == release else f" (on {of[1]})"
    return {line.split()[0]: row(*line.split(None, 3)) + (when if "(on " not in line else "")
            for line in lines[2:] if line and line.split()[0] in names}


def report(arch, rows, mutants):
    """The table of an architecture; rows: {name of a mutant: its row}."""
    verdicts = [row.split()[2] for row in rows.values()]
    head = [f"{len(rows)} mutants of {release_of(arch)}: {verdicts.count('killed')} killed, "
            f"{verdicts.count('SURVIVED')} survived, {verdicts.count('ERROR')} not tried", ""]
    older = sum("(on " in row for row in rows.values())
    head[1:1] = [f"{older} of them on an earlier series, as they say"] if older else []
    missing = unproven(mutants, arch)
    tail = ["", "cases that no mutant names: " + (" ".join(missing) or "none")]
    return "\n".join(head + [rows[name] for name in sorted(rows)] + tail) + "\n"


def plan(archs, patterns):
    """[(arch, its mutants)]; BadInput if one has none."""
    mutants = load_all(run.knob("BASE"), patterns)
    found = [(arch, [m for m in mutants if arch.name in m.archs]) for arch in map(arch_.load, archs)]
    for arch, mine in found:
        if not mine:
            raise BadInput(f"MUTANTS={' '.join(patterns)}: none of them is for {arch.name}; say ARCH= as well")
        for mutant in mine:
            check_setting(mutant, arch)
    return found


def check_setting(mutant, arch):
    mode, config = mutant.setting(arch)
    if mode not in [m.name for m in arch.modes] or not (config == "" or (ROOT / "guest-images" / f"{config}.config").exists()):
        raise BadInput(f"{mutant.path}: {arch.name} has no mode {mode}, or there is no configuration {config}")
    if not killers_in(arch, (mode, config), mutant.killers):
        raise BadInput(f"{mutant.path}: {arch.name}/{mode}{config and ' with ' + config} has none of the cases in Killed-by:")


def main(argv):
    patterns = run.knob("MUTANTS").replace(",", " ").split()
    found = plan([a for a in argv if a != "--plan"], patterns)
    if "--plan" in argv:
        for arch, mine in found:
            print(f"  {arch.name:<14} {len(mine)} mutants")
        return 0
    this, verdicts = run.Run("mutants"), []
    try:
        for arch, mine in found:
            lines, new = try_all(this, mine, arch)
            table, mutants = run.results_of(run.knob("BASE")) / f"mutants-{arch.name}.txt", load_all(run.knob("BASE"))
            rows = {**earlier(table, release_of(arch), mutants), **{line.split()[0]: line for line in lines}}
            text = report(arch, rows, mutants)
            (this.directory / f"mutants-{arch.name}.txt").write_text(text)
            if len(rows) == sum(arch.name in m.archs for m in mutants):
                table.parent.mkdir(exist_ok=True)
                table.write_text(text)
            print("\n".join(line for line in text.splitlines() if line not in rows.values()))
            verdicts += new
    finally:
        git(run.knob("TREE"), "checkout", "-q", "--", ".")
    return 2 if "ERROR" in verdicts else int("SURVIVED" in verdicts)


if __name__ == "__main__":
    sys.exit(run.main(main, sys.argv[1:]))
