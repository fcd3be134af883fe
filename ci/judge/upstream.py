# SPDX-License-Identifier: GPL-2.0
"""What upstream's tests do on the base, and how a run of the series compares.

The base is asked for tests alone that do not pass on the series.  A pass on the base is
kept in OUT/base/results, by all that it depends on; what does not pass is asked again each
time, since once may have been an accident.  Two failures are the same if what the test says
about them is, and in which of its own parts, but for numbers that differ from run to run.
"""
import dataclasses
import pathlib
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


@dataclasses.dataclass(frozen=True)
class Result:
    status: str
    signature: str  # what the test says of its failure or skip; "" for a pass


PASS = Result("pass", "")


def is_upstream(case: Case) -> bool:
    return case.needs == "-" and not case.ours


def signature(result: ktap.Result) -> str:
    if result.status == "pass":
        return ""
    before, _, after = result.output.partition("Test Assertion Failure")
    parts = [line for line in before.splitlines() if PART.match(line)] if after else []
    lines = [NOISE.sub("", line).strip()
             for line in (after or result.output[-2000:]).splitlines()]
    return "\n".join([result.reason, f"part {len(parts)}", *parts[-1:], *filter(None, lines)])


def result_of(result: ktap.Result) -> Result:
    return Result(result.status, signature(result))


def compare(ours: ktap.Result, base: Result) -> str:
    """One word for how a test fares, both results given; "" if it passes on both."""
    if ours.status == base.status == "pass":
        return ""
    if ours.status == "pass":
        return "fixed"
    if base.status == "pass":
        return "new"
    return "same" if result_of(ours) == base else "different"


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
    if (word in ("new", "different") and finding.status == Status.KNOWN
            and not any(line.sometimes for line in known)):
        return dataclasses.replace(finding, status=Status.FAIL,
                                   summary=f"{word}, not as on the base: {finding.summary}")
    return finding


# --- asking the base ---

def questions(boot: Boot) -> list[ktap.Result]:
    """Of upstream's tests, what does not pass on the series."""
    names = {case.name for case in boot.request.cases if is_upstream(case)}
    return [result for result in boot.outcome.stream.results
            if result.name in names and result.status != "pass"]


def on_base(config: Config, boot: Boot) -> Request:
    """The same boot on the base, of the tests in question alone."""
    names = tuple(result.name for result in questions(boot))
    theirs = dataclasses.replace(config, arch=(boot.request.arch.name,), cases=names,
                                 mode=(boot.request.mode.name,))
    return request_.requests(theirs, boot.request.kind)[0]


def obtain(run: Run, request: Request, cache: Cache) -> dict[str, Result]:
    """{case: Result} on the base: what is known to pass, and a boot of the rest."""
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
    fresh = {result.name: result_of(result) for result in boot.outcome.stream.results}
    for case in missing:
        if fresh.get(case.name) == PASS:
            cache.put("pass", keys[case], True)
    return results | fresh


def compare_boot(run: Run, config: Config, boot: Boot) -> None:
    """Say what differs from the base, and judge the boot by that."""
    request = on_base(config, boot)
    results = obtain(run, request, Cache(request.kernel.parent / "results"))
    if len(results) != len(request.cases):
        print(f"  {request.name:<14} the base could not be asked, see {run.directory}")
        boot.findings.append(Check(Status.HARNESS, "no results of the base to compare with"))
        return
    words = []
    for ours in questions(boot):
        word = compare(ours, results[ours.name])
        known = [line for line in run.known
                 if line.concerns(ours.name, request.arch.name, request.accel)]
        boot.findings[:] = [judged(finding, word, known) if finding.case == ours.name else finding
                            for finding in boot.findings]
        words.append(f"{ours.name} {word}")
    print(f"  {request.name:<14} upstream's tests against the base: {', '.join(words)}",
          flush=True)
    boot.meta["against_base"] = words


def compare_run(run: Run, config: Config) -> None:
    """Finish a run of all cases on the series: what is new, what is the base's."""
    asked = [boot for boot in run.boots if questions(boot)]
    if not asked:
        return
    run.unfinished = asked[0].request
    base = dataclasses.replace(config, base_only=True)
    if not config.images:
        names = {boot.request.arch.name for boot in asked}
        images.build(base, [arch for arch in base.archs if arch.name in names], programs=False)
    with images.booting(base):
        for boot in asked:
            compare_boot(run, base, boot)
            save_verdict(boot)
    run.unfinished = None
