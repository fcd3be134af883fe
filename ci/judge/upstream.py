# SPDX-License-Identifier: GPL-2.0
"""What upstream's tests do on the base, and how a run of the series compares.

The base is asked for tests alone that do not pass on the series.  A pass on the base is kept in
OUT/base/results, by all that it depends on; what does not pass is asked again each time, since
once may have been an accident.
"""
import dataclasses
import re
from collections.abc import Sequence

from ci.boot import ktap
from ci.boot import request as request_
from ci.boot.request import Request
from ci.build import images
from ci.build.cache import Cache
from ci.config import Config
from ci.facts.cases import Case, KnownFailure
from ci.judge.check import Check, Status
from ci.judge.results import Boot, Run, save_verdict

# Process numbers, errno of a moment, addresses, stack entries
NOISE = re.compile(r"\bpid=.*|0x[0-9a-f]{6,}|^\s*\d+\s.*|Random seed.*")
# Upstream's tests announce their parts by such lines.
PART = re.compile(r"(Test(ing)?: |Testing )")

# (status, what the test says of its failure or skip)
Result = tuple[str, str]
PASS: Result = ("pass", "")
NOT_AS_ON_BASE = {"new": "passes on the base", "different": "fails differently on the base"}


def is_upstream(case: Case) -> bool:
    return case.needs == "-" and not case.ours


def result_of(result: ktap.Result) -> Result:
    """Two failures are the same if the test says the same, but for noise, in the same part."""
    if result.status == "pass":
        return PASS
    before, _, after = result.output.partition("Test Assertion Failure")
    parts = [line for line in before.splitlines() if PART.match(line)] if after else []
    lines = [NOISE.sub("", line).strip()
             for line in (after or result.output[-2000:]).splitlines()]
    return result.status, "\n".join(
        [result.reason, f"part {len(parts)}", *parts[-1:], *filter(None, lines)])


def compare(result: ktap.Result, base: Result) -> str:
    """One word for how a test fares, both results given; "" if it passes on both."""
    ours = result_of(result)
    if ours == base:
        return "" if ours == PASS else "same"
    if ours == PASS:
        return "fixed"
    return "new" if base == PASS else "different"


def judged(finding: Check, word: str, known: Sequence[KnownFailure]) -> Check:
    """A finding about a test that compares so, with the lines of known-failures about the test.

    A failure that is the base's is none of the series.  A skip is, since the budget of skips is
    zero, and a hang says too little to be the same.  What known-failures excuses has to fail on
    the base, in the same way.
    """
    if (word == "same" and not known and finding.status == Status.FAIL
            and "tests.ktap" in finding.where):
        return dataclasses.replace(finding, status=Status.KNOWN,
                                   summary=f"{finding.summary} (on the base as well)")
    if (word in NOT_AS_ON_BASE and finding.status == Status.KNOWN
            and not any(line.sometimes for line in known)):
        return dataclasses.replace(finding, status=Status.FAIL,
                                   summary=f"{NOT_AS_ON_BASE[word]}: {finding.summary}")
    return finding


def questions(boot: Boot) -> list[ktap.Result]:
    """Of upstream's tests, what does not pass on the series."""
    names = {case.name for case in boot.request.cases if is_upstream(case)}
    return [result for result in boot.outcome.stream.results
            if result.name in names and result.status != "pass"]


def ask_base(run: Run, request: Request) -> dict[str, Result]:
    """{case: Result} on the base: what is known to pass, and a boot of the rest."""
    cache = Cache(request.kernel.parent / "results")
    keys = {case: request_.identity(dataclasses.replace(request, cases=(case,)))
            for case in request.cases}
    missing = tuple(case for case in request.cases if not cache.get("pass", keys[case]))
    results = {case.name: PASS for case in request.cases if case not in missing}
    if not missing:
        return results
    print(f"  {request.name:<14} {len(missing)} of upstream's tests on the base", flush=True)
    boot = run.trial(dataclasses.replace(request, cases=missing),
                     run.directory / f"{request.directory}-base")
    if any(finding.status in (Status.HARNESS, Status.LOST) for finding in boot.findings):
        return {}
    results |= {result.name: result_of(result) for result in boot.outcome.stream.results}
    for case in missing:
        if results.get(case.name) == PASS:
            cache.put("pass", keys[case], True)
    return results


def compare_boot(run: Run, base: Config, boot: Boot) -> None:
    """Say what differs from the base, and judge the boot by that."""
    asked = {result.name: result for result in questions(boot)}
    one = dataclasses.replace(base, arch=(boot.request.arch.name,), cases=tuple(asked),
                              mode=(boot.request.mode.name,))
    request, = request_.requests(one, boot.request.kind)
    results = ask_base(run, request)
    if len(results) != len(request.cases):
        print(f"  {request.name:<14} the boot of the base gave no results, see {run.directory}")
        boot.findings.append(Check(Status.HARNESS, "no results of the base to compare with"))
        return
    words = {name: compare(result, results[name]) for name, result in asked.items()}
    for n, finding in enumerate(boot.findings):
        if finding.case in words:
            known = [line for line in run.known
                     if line.concerns(finding.case, request.arch.name, request.accel)]
            boot.findings[n] = judged(finding, words[finding.case], known)
    boot.meta["against_base"] = [f"{name} {word}" for name, word in words.items()]
    print(f"  {request.name:<14} upstream's tests against the base: "
          f"{', '.join(boot.meta['against_base'])}", flush=True)


def compare_run(run: Run) -> None:
    """Finish a run of all cases on the series: what is new, what is the base's."""
    asked = [boot for boot in run.boots if questions(boot)]
    if not asked:
        return
    run.unfinished = asked[0].request
    base = dataclasses.replace(run.config, base_only=True)
    if not base.images:
        names = {boot.request.arch.name for boot in asked}
        images.build(base, [arch for arch in base.archs if arch.name in names], programs=False)
    with images.booting(base):
        for boot in asked:
            compare_boot(run, base, boot)
            save_verdict(boot)
    run.unfinished = None
