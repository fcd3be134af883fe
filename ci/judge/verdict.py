# SPDX-License-Identifier: GPL-2.0
"""From what a guest left behind to one verdict, and what to do about it."""
import dataclasses
import enum
import re

from ci.judge import splats as splat


class Verdict(enum.IntEnum):
    """Exit statuses; of several verdicts in one run, the largest weight counts."""
    PASS = 0         # every case did what it should
    KNOWN = -1       # a test failed as selftests/known-failures says; exit status 0
    FAIL = 1         # a test failed
    HARNESS = 2      # the harness or its input is at fault: no statement on the kernel
    SPLAT = 3        # the kernel complained about itself
    SKIP = 4         # a case that must run was skipped, or one for another reason than the missing series
    LOST = 5         # the machine died: panic, reset, QEMU killed
    TIMEOUT = 124    # a case or the machine took too long
    INTERRUPTED = 130

    @property
    def weight(self):
        """How much of the run it invalidates, most last."""
        return ("PASS", "KNOWN", "SKIP", "FAIL", "TIMEOUT", "SPLAT", "HARNESS", "LOST",
                "INTERRUPTED").index(self.name)


@dataclasses.dataclass(frozen=True)
class Finding:
    verdict: Verdict
    case: str    # "" if it is about the machine
    text: str
    where: str   # file:line below the run's directory, or ""


# What a case that needs the series says when it skips, selftests/harness.h.
SERIES_IS_MISSING = "KVM_CAP_MEMORY_FAULT_NOWAIT"
# init.c, of a program that execv() refused
NOT_EXECUTED = "exit=127"
PANIC = re.compile(r"Kernel panic - not syncing.*")


def judge_end(outcome, console):
    """How the machine ended, if not as planned."""
    stream = outcome.stream
    case = stream.running[0] if stream.running else ""
    panic = PANIC.search(console)
    if outcome.how == "interrupted":
        yield Finding(Verdict.INTERRUPTED, case, outcome.detail, "")
    elif outcome.how == "timeout" or stream.bail.endswith("cannot be killed"):
        yield Finding(Verdict.TIMEOUT, case, outcome.detail or stream.bail, "console.log")
    elif stream.bail:
        yield Finding(Verdict.HARNESS, case, stream.bail, "tests.ktap")
    elif outcome.how == "killed":
        yield Finding(Verdict.LOST, case, outcome.detail, "qemu.log")
    elif panic:
        line = console[:panic.start()].count("\n") + 1
        yield Finding(Verdict.LOST, case, panic[0], f"console.log:{line}")
    elif not stream.ended:
        yield Finding(Verdict.LOST, case, "the guest ended without its end record", "console.log")


def judge_machine(request, stream, console):
    """Was it the machine that was asked for?  Only what it says itself counts."""
    wanted = {"release": request.release, "cpus": str(request.cpus),
              "page_size": str(request.arch.page_size), "vm": "held",
              **dict(knob.split("=") for knob in request.environment)}
    for key, value in wanted.items():
        if stream.facts.get(key) != value:
            yield Finding(Verdict.HARNESS, "", f"asked for {key}={value}, the guest reports "
                          f"{stream.facts.get(key, 'nothing')}", "tests.ktap")
    if not re.search(request.mode.proof, console):
        yield Finding(Verdict.HARNESS, "", f"asked for mode {request.mode.name}, but the console "
                      f"has no \"{request.mode.proof}\"", "console.log")


def judge_failure(known, result, where):
    """A failed case: known, if it failed as a line of selftests/known-failures says."""
    for line in known:
        if line.output.search(result.output):
            return Finding(Verdict.KNOWN, result.name, line.why, where)
    return Finding(Verdict.FAIL, result.name, result.reason, where)


def judge_console(request, stream, console):
    """Was it whole?  A splat cannot be found on a console that was cut off."""
    for result in stream.results:
        if f"init: case {result.name}" not in console:
            yield Finding(Verdict.HARNESS, result.name, "its mark is missing on the console", "console.log")
    if stream.ended and request.config.proof not in console:
        yield Finding(Verdict.HARNESS, "", f"the console has no \"{request.config.proof}\"", "console.log")
    if stream.ended and "init: end" not in console:
        yield Finding(Verdict.HARNESS, "", "the console was cut off", "console.log")


def judge_result(case, result, series, known):
    """One result against what the case promised.  None if it kept its promise."""
    where = f"tests.ktap:{result.line}"
    must_skip = case.needs != "-" and series == "base"
    if result.status == "timeout":
        return Finding(Verdict.TIMEOUT, case.name, result.reason, where)
    if result.status == "fail" and result.reason == NOT_EXECUTED:
        return Finding(Verdict.HARNESS, case.name, f"its program could not be executed: {result.output}", where)
    if result.status == "fail":
        return judge_failure(known, result, where)
    if result.status == "skip" and must_skip and SERIES_IS_MISSING not in result.reason:
        return Finding(Verdict.SKIP, case.name, f"skips for another reason: {result.reason}", where)
    if result.status == "skip" and not must_skip:
        return Finding(Verdict.SKIP, case.name, f"must not skip here: {result.reason}", where)
    if result.status == "pass" and must_skip:
        return Finding(Verdict.FAIL, case.name, "passes without the series that it tests", where)
    if result.status == "pass" and not all(line.sometimes for line in known):
        return Finding(Verdict.FAIL, case.name, "passes, remove its line in known-failures", where)
    return None


def judge_stream(request, stream, series, known):
    for problem in stream.problems:
        yield Finding(Verdict.HARNESS, "", problem, "tests.ktap")
    cases = {case.name: case for case in request.cases}
    for result in stream.results:
        if result.name not in cases:
            yield Finding(Verdict.HARNESS, result.name, "ran, but was not asked for", "tests.ktap")
        else:
            lines = [k for k in known
                     if k.concerns(result.name, request.arch.name, request.accel)]
            finding = judge_result(cases[result.name], result, series, lines)
            if finding:
                yield finding
    if stream.ended and [r.name for r in stream.results] != list(cases):
        missing = set(cases) - {r.name for r in stream.results}
        yield Finding(Verdict.HARNESS, "", f"no result for: {' '.join(sorted(missing))}", "tests.ktap")


def judge(request, outcome, console, series, policy, known=()):
    """All findings about one boot; none means that it passed.

    series: "base" or "patched"; policy: of splat.load_policy(); known: KnownFailures.
    """
    findings = list(judge_end(outcome, console))
    if not outcome.stream.bail:  # init.c has had stacks printed on purpose
        findings += [Finding(Verdict.SPLAT, s.case, s.text, f"console.log:{s.line}")
                     for s in splat.scan(console, policy)]
    if not findings:
        # A machine that did not end well cannot be asked what it was.
        findings += judge_machine(request, outcome.stream, console)
        findings += judge_console(request, outcome.stream, console)
    findings += judge_stream(request, outcome.stream, series, known)
    if not outcome.stream.results and not findings:
        findings.append(Finding(Verdict.HARNESS, "", "no case ran", "tests.ktap"))
    return findings


def worst(findings):
    return max((f.verdict for f in findings), key=lambda v: v.weight, default=Verdict.PASS)
