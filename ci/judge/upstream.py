# SPDX-License-Identifier: GPL-2.0
"""What upstream's tests do on the base, and how a run of the series compares.

A test that passes on the base is remembered in OUT/base/results, by the content of all
that it depends on; what does not pass is asked again each time, since once may have been
an accident.  Two failures are the same if what the test says about them is, and in which
of its own parts, but for numbers that differ from run to run.
"""
import dataclasses
import hashlib
import pathlib
import re

from ci.judge import results as run
from ci.judge import verdict
from ci.facts.arch import ROOT
from ci.judge.verdict import Finding, Verdict

# Process numbers, errno of a moment, addresses, stack entries
NOISE = re.compile(r"\bpid=.*|0x[0-9a-f]{6,}|^\s*\d+\s.*|Random seed.*")


# Upstream's tests announce their parts by such lines.
PART = re.compile(r"(Test(ing)?: |Testing )")


@dataclasses.dataclass(frozen=True)
class Result:
    status: str
    signature: str  # what the test says of its failure or skip; "" for a pass


def signature(result):
    if result.status == "pass":
        return ""
    before, _, after = result.output.partition("Test Assertion Failure")
    parts = [line for line in before.splitlines() if PART.match(line)] if after else []
    lines = [NOISE.sub("", line).strip() for line in (after or result.output[-2000:]).splitlines()]
    return "\n".join([result.reason, f"part {len(parts)}", *parts[-1:], *filter(None, lines)])


def is_upstream(case):
    return case.needs == "-" and not (ROOT / "selftests" / f"{case.command[0]}.c").exists()


def key(request, case):
    """The name of the file that holds the case's result on the base."""
    program = request.initramfs.parent / "bin" / case.command[0]
    facts = [run.sha256(request.kernel), run.sha256(program), run.sha256(request.initramfs.parent / "init"),
             run.first_line(request.qemu, "--version"), repr(request.arch), repr(request.mode), repr(request.config),
             request.accel, str(request.cpus), str(case.seconds), *case.command]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def on_base(request, out):
    """The same boot on the base, of upstream's tests alone."""
    image = out / "base" / request.arch.name
    release = run.release_of(image, "base", run.knob("BASE_ID"))
    return dataclasses.replace(request, cases=tuple(filter(is_upstream, request.cases)),
                               kernel=image.with_suffix(".kernel"),
                               release=release)


def obtain(this, request, store):
    """{case: Result} on the base: from the store, or from a boot.

    What is in the store has passed.
    """
    files = {case: store / f"{case.name}-{key(request, case)}.pass" for case in request.cases}
    missing = tuple(case for case, path in files.items() if not path.exists())
    fresh = {}
    if missing:
        request = dataclasses.replace(request, cases=missing)
        directory = this.directory / f"{request.arch.name}-{request.mode.name}-base"
        print(f"  {request.name:<14} {len(missing)} of upstream's tests on the base", flush=True)
        boot = this.trial(request, directory)
        if any(f.verdict in (Verdict.HARNESS, Verdict.LOST) for f in boot.findings):
            return {}
        fresh = {result.name: Result(result.status, signature(result)) for result in boot.outcome.stream.results}
        keep(fresh, {case.name: path for case, path in files.items()})
    return {**{case.name: Result("pass", "") for case in files if case not in missing}, **fresh}


def keep(results, paths):
    """A file without contents, which cannot be half there, for each test that passes."""
    for name, result in results.items():
        if result.status == "pass":
            paths[name].parent.mkdir(parents=True, exist_ok=True)
            paths[name].touch()


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


def accuse(findings, name, word):
    """What selftests/known-failures excuses has to fail on the base, in the same way."""
    return [Finding(Verdict.FAIL, f.case, f"{word}, not as on the base: {f.text}", f.where)
            if f.case == name and f.verdict == Verdict.KNOWN else f for f in findings]


def sometimes(this, name, request):
    return any(k.sometimes for k in this.known if k.concerns(name, request.arch.name, request.accel))


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
        listed = any(k.concerns(ours.name, boot.request.arch.name, boot.request.accel) for k in this.known)
        if word == "same" and not listed:
            boot.findings[:] = excuse(boot.findings, ours.name)
        elif word in ("new", "different") and not sometimes(this, ours.name, boot.request):
            boot.findings[:] = accuse(boot.findings, ours.name, word)
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
