# SPDX-License-Identifier: GPL-2.0
"""What upstream's tests do on the base, and how a run of the series compares.

A result on the base is kept in OUT/base/results, by the content of all that it depends
on, so that it is obtained once.  Two failures are the same if what the test says about
them is, but for numbers that differ from run to run.
"""
import dataclasses
import hashlib
import json
import pathlib
import re

import guest
import run
import verdict
from arch import ROOT
from verdict import Finding, Verdict

# Process numbers, errno of a moment, addresses, stack entries
NOISE = re.compile(r"\bpid=.*|0x[0-9a-f]{6,}|^\s*\d+\s.*|Random seed.*")


@dataclasses.dataclass(frozen=True)
class Result:
    status: str
    signature: str  # what the test says of its failure or skip; "" for a pass


def signature(result):
    if result.status == "pass":
        return ""
    said = result.output.partition("Test Assertion Failure")[2] or result.output[-2000:]
    lines = [NOISE.sub("", line).strip() for line in said.splitlines()]
    return "\n".join([result.reason, *filter(None, lines)])


def is_upstream(case):
    return case.needs == "-" and not (ROOT / "selftests" / f"{case.command[0]}.c").exists()


def key(request, case):
    """The name of the file that holds the case's result on the base."""
    program = request.initramfs.parent / "bin" / case.command[0]
    facts = [run.sha256(request.kernel), run.sha256(program), run.first_line(request.qemu, "--version"),
             request.name, request.accel, str(request.cpus), str(request.scale), str(case.seconds), *case.command]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def on_base(request, out):
    """The same boot on the base, of upstream's tests alone."""
    image = out / "base" / request.arch.name
    return dataclasses.replace(request, cases=tuple(filter(is_upstream, request.cases)),
                               kernel=image.with_suffix(".kernel"),
                               release=image.with_suffix(".release").read_text().strip())


def obtain(this, request, store):
    """{case: Result} on the base: from the store, or from a boot.

    Only what a machine that ended well has said is kept, and no hang.
    """
    files = {case: store / f"{case.name}-{key(request, case)}.json" for case in request.cases}
    missing = tuple(case for case, path in files.items() if not path.exists())
    fresh = {}
    if missing:
        request = dataclasses.replace(request, cases=missing)
        directory = this.directory / f"{request.arch.name}-{request.mode.name}-base"
        directory.mkdir()
        print(f"  {request.name:<14} {len(missing)} of upstream's tests on the base", flush=True)
        outcome = guest.run(request, directory)
        boot = this.judge(request, directory, outcome)
        if any(f.verdict in (Verdict.HARNESS, Verdict.LOST, Verdict.INTERRUPTED) for f in boot.findings):
            return {}
        fresh = {result.name: Result(result.status, signature(result)) for result in outcome.stream.results}
        keep(fresh, {case.name: path for case, path in files.items()})
    kept = {case.name: Result(*json.loads(path.read_text())) for case, path in files.items() if path.exists()}
    return {**fresh, **kept}


def keep(results, paths):
    for name, result in results.items():
        if result.status != "timeout":
            paths[name].parent.mkdir(parents=True, exist_ok=True)
            paths[name].write_text(json.dumps([result.status, result.signature]))


def compare(ours, base):
    """One word for how a test fares, both results given; "" if it passes on both."""
    if ours.status == base.status == "pass":
        return ""
    if ours.status == "pass":
        return "fixed"
    if base.status == "pass":
        return "new"
    return "same" if (ours.status, signature(ours)) == (base.status, base.signature) else "different"


def excuse(findings, name):
    """A failure that is the base's is none of the series.

    A skip is, since the budget of skips is zero, and a hang says too little to be the same.
    """
    return [Finding(Verdict.KNOWN, f.case, f"{f.text} (on the base as well)", f.where)
            if f.case == name and f.verdict == Verdict.FAIL and "tests.ktap" in f.where else f for f in findings]


def compare_boot(this, boot, out):
    """Print what differs from the base; returns False if the base could not be asked."""
    request = on_base(boot.request, out)
    if not request.cases:
        return True
    results = obtain(this, request, out / "base" / "results")
    if len(results) != len(request.cases):
        print(f"  {boot.request.name:<14} the base could not be asked, see {this.directory}")
        return False
    words = []
    for ours in boot.outcome.stream.results:
        word = compare(ours, results[ours.name]) if ours.name in results else ""
        if word == "same":
            boot.findings[:] = excuse(boot.findings, ours.name)
        if word:
            words.append(f"{ours.name} {word}")
    print(f"  {boot.request.name:<14} upstream's {len(results)} tests against the base: "
          f"{', '.join(words) or 'no difference'}", flush=True)
    boot.meta["against_base"] = words
    run.save_verdict(boot)
    return True


def compare_run(this):
    """Finish a run of all cases on the series: what is new, what is the base's."""
    out = pathlib.Path(run.knob("OUT", "build")).resolve()
    for boot in this.boots:
        if boot.verdict == verdict.Verdict.INTERRUPTED:
            return
        if not compare_boot(this, boot, out):
            boot.findings.append(Finding(Verdict.HARNESS, "", "no results of the base to compare with", ""))
