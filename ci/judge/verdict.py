# SPDX-License-Identifier: GPL-2.0
"""From what a guest left behind to what is to be said of it."""
import re
from collections.abc import Iterator, Sequence

from ci.boot import ktap
from ci.boot.request import Outcome, Request
from ci.facts.cases import Case, KnownFailure
from ci.judge import splats
from ci.judge.check import Check, Status

# What a case that needs the series says when it skips, selftests/harness.h.
SERIES_IS_MISSING = "KVM_CAP_MEMORY_FAULT_NOWAIT"
# init.c, of a program that execv() refused
NOT_EXECUTED = "exit=127"
PANIC = re.compile(r"Kernel panic - not syncing.*")


def judge_end(outcome: Outcome, console: str) -> Iterator[Check]:
    """How the machine ended, if not as planned."""
    stream = outcome.stream
    case = stream.running[0] if stream.running else ""
    panic = PANIC.search(console)
    if outcome.how == "interrupted":
        yield Check(Status.INTERRUPTED, outcome.detail, case)
    elif outcome.how == "timeout" or stream.bail.endswith("cannot be killed"):
        yield Check(Status.TIMEOUT, outcome.detail or stream.bail, case, "console.log")
    elif stream.bail:
        yield Check(Status.HARNESS, stream.bail, case, "tests.ktap")
    elif outcome.how == "killed":
        yield Check(Status.LOST, outcome.detail, case, "qemu.log")
    elif panic:
        line = console[:panic.start()].count("\n") + 1
        yield Check(Status.LOST, panic[0], case, f"console.log:{line}")
    elif not stream.ended:
        yield Check(Status.LOST, "the guest ended without its end record", case, "console.log")


def judge_machine(request: Request, stream: ktap.Stream, console: str) -> Iterator[Check]:
    """Was it the machine that was asked for?  Only what it says itself counts."""
    wanted = {"release": request.release, "cpus": str(request.cpus),
              "page_size": str(request.arch.page_size), "vm": "held",
              **dict(knob.split("=", 1) for knob in request.environment)}
    for key, value in wanted.items():
        if stream.facts.get(key) != value:
            yield Check(Status.HARNESS, f"asked for {key}={value}, the guest reports "
                        f"{stream.facts.get(key, 'nothing')}", where="tests.ktap")
    if not re.search(request.mode.proof, console):
        yield Check(Status.HARNESS, f"asked for mode {request.mode.name}, but the console "
                    f"has no \"{request.mode.proof}\"", where="console.log")


def judge_console(request: Request, stream: ktap.Stream, console: str) -> Iterator[Check]:
    """Was it whole?  A splat cannot be found on a console that was cut off."""
    for result in stream.results:
        mark = f"init: case {result.name}"
        if mark not in console:
            yield Check(Status.HARNESS, f"console has no \"{mark}\"", result.name, "console.log")
    if stream.ended and request.config.proof not in console:
        yield Check(Status.HARNESS, f"the console has no \"{request.config.proof}\"",
                    where="console.log")
    if stream.ended and "init: end" not in console:
        yield Check(Status.HARNESS, "the console was cut off", where="console.log")


def judge_result(asked: Case, result: ktap.Result, series: str,
                 known: Sequence[KnownFailure]) -> tuple[Status, str]:
    """One result against what the case promised."""
    must_skip = asked.needs != "-" and series == "base"
    excuse = next((line for line in known if line.output.search(result.output)), None)
    match result.status:
        case "timeout":
            return Status.TIMEOUT, result.reason
        case "fail" if result.reason == NOT_EXECUTED:
            return Status.HARNESS, f"its program could not be executed: {result.output}"
        case "fail" if excuse:
            return Status.KNOWN, excuse.why
        case "fail":
            return Status.FAIL, result.reason
        case "skip" if not must_skip:
            return Status.SKIP, f"must not skip here: {result.reason}"
        case "skip" if SERIES_IS_MISSING not in result.reason:
            return Status.SKIP, f"skipped, but not for the missing capability: {result.reason}"
        case "pass" if must_skip:
            return Status.FAIL, "passed on the base, but needs the series"
        case "pass" if not all(line.sometimes for line in known):
            return Status.FAIL, "passed, but is in selftests/known-failures; remove the line"
    return Status.PASS, ""


def judge_stream(request: Request, stream: ktap.Stream,
                 known: Sequence[KnownFailure]) -> Iterator[Check]:
    for problem in stream.problems:
        yield Check(Status.HARNESS, problem, where="tests.ktap")
    cases = {case.name: case for case in request.cases}
    for result in stream.results:
        if result.name not in cases:
            yield Check(Status.HARNESS, "ran, but was not asked for", result.name, "tests.ktap")
            continue
        lines = [line for line in known
                 if line.concerns(result.name, request.arch.name, request.accel)]
        status, text = judge_result(cases[result.name], result, request.source.series, lines)
        if status != Status.PASS:
            yield Check(status, text, result.name, f"tests.ktap:{result.line}")
    if stream.ended and [result.name for result in stream.results] != list(cases):
        missing = set(cases) - {result.name for result in stream.results}
        yield Check(Status.HARNESS, f"no result for: {' '.join(sorted(missing))}",
                    where="tests.ktap")


def judge(request: Request, outcome: Outcome, console: str, policy: splats.Policy,
          known: Sequence[KnownFailure] = ()) -> list[Check]:
    """All findings about one boot; none means that it passed."""
    found = list(judge_end(outcome, console))
    if not outcome.stream.bail:  # init.c has had stacks printed on purpose
        found += splats.scan(console, policy)
    if not found:
        # A machine that did not end well cannot be asked what it was.
        found += judge_machine(request, outcome.stream, console)
        found += judge_console(request, outcome.stream, console)
    found += judge_stream(request, outcome.stream, known)
    if not outcome.stream.results and not found:
        found.append(Check(Status.HARNESS, "no case ran", where="tests.ktap"))
    return found
