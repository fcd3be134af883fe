# SPDX-License-Identifier: GPL-2.0
"""Judge a revision of the series: each patch, the whole, and what it costs.

usage: revision.py [--plan] ARCH...    (what make revision calls; knobs: see run.py, and below)

	OF         the series: a directory, a mailbox, or a revision of this repository, which
	           has it in kernel-patches/BASE; unset: kernel-patches/BASE as it is
	AGAINST    the revision before it, likewise; unset: none
	PATCHES    only these, as "3 5-7", and nothing of the whole: to repeat a finding
	MATRIX     all: also the slow cells of ci/matrix

After each patch, for each architecture: a build, whose warnings are compared with those
before; and if the kernel or upstream's tests are others than before, a boot in which no
case may fail that passed before.  Of the whole: the cells of ci/matrix against the base and
AGAINST, and what ci/metrics declares.

What was found out once is kept in CACHE, by the content of what it depends on (ci/build/cache.py):
an interrupted run goes on, and a patch that has not changed costs nothing.  A boot that did
not go well is not kept.

Writes results/RUN/revision.json (schema: ci/revision.schema.json) and what ci/publish/report.py
makes of it.  Exit status: ci/judge/verdict.py has the list.
"""
import dataclasses
import functools
import pathlib
import re
import shlex
import subprocess
import sys
import time

from ci.facts import arch as arch_
from ci.judge import upstream as baseline
from ci.facts import cases
from ci.facts import matrix
from ci.revision import cost as perf
from ci.publish import report
from ci.judge import results as run
from ci.revision import series as series_
from ci.revision import patchcheck as static
from ci.facts.arch import ROOT, BadInput
from ci.judge.verdict import Verdict
from ci.revision.states import AT_THE_END, EACH_PATCH, NotApplied, Workshop, settled


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was found out; the fields are those of revision.json."""
    patch: int        # 0: the base, or the series as a whole
    arch: str         # "" if it is about none
    tool: str
    status: str       # a verdict's name; "same": as after the patch before; "left": not looked at
    summary: str = ""
    log: str = ""
    repeat: str = ""  # the command

    @property
    def bad(self):
        return self.status not in report.GOOD


def repeat(patch, arch):
    words = [f"ARCH={arch}"] * bool(arch) + [f"PATCHES={patch}"] * bool(patch)
    words += [shlex.quote(f"{name}={run.knob(name)}") for name in ("OF", "AGAINST", *(["PATCHES"] if not patch else [])) if run.knob(name)]
    return " ".join(["make revision", *words, *run.knobs_given()])


def chosen(count):
    """Which patches PATCHES= names, of so many."""
    wanted = set() if run.knob("PATCHES") else set(range(1, count + 1))
    for word in run.knob("PATCHES").replace(",", " ").split():
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        if not match:
            raise BadInput(f"PATCHES={run.knob('PATCHES')}: want numbers and ranges, as 3 5-7")
        wanted |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    if not wanted or not wanted <= set(range(1, count + 1)):
        raise BadInput(f"PATCHES={run.knob('PATCHES')}: the series has patches 1 to {count}")
    return sorted(wanted)


class Judge:
    """What is said of a revision, by what the workshop finds out."""

    def __init__(self, archs, shop, series):
        self.archs, self.shop, self.series, self.checks = archs, shop, series, []

    def add(self, patch, arch, tool, status, summary="", log=""):
        check = Check(patch, arch, tool, status, summary, str(log), repeat(patch, arch) if status not in ("pass", "same") else "")
        self.checks.append(check)
        if check.bad:
            print(f"  {status.upper()} {f'patch {patch}' if patch else 'series'} {arch} {tool}: {summary.partition(chr(10))[0]}", flush=True)

    def add_all(self, patch, arch, tool, found):
        """found: [(status, summary)]; none is a pass."""
        for status, summary in found or [("pass", "")]:
            self.add(patch, arch, tool, status, summary)

    # --- each patch ---

    def judge_patch(self, number):
        patch, start = self.series.patches[number - 1], time.monotonic()
        for tool, found in self.shop.look_at(patch, number):
            self.add_all(number, "", tool, found)
        for arch in self.archs:
            self.judge_build(arch, patch, number)
        print(f"  {number}/{len(self.series.patches)} {time.monotonic() - start:4.0f} s  {patch.subject}", flush=True)

    def judge_build(self, arch, patch, number):
        state = self.shop.state(arch, number)
        if not state.boot:
            self.add(number, arch.name, "build", "fail", state.problem, state.log)
            return
        self.add(number, arch.name, "build", "pass")
        tool, found = self.shop.compare_warnings(arch, patch, number)
        if tool:
            self.add_all(number, arch.name, tool, found)
        self.judge_boot(arch, number, self.shop.state_before(arch, number), state)

    def judge_boot(self, arch, number, before, now):
        if before.images == now.images:
            self.add(number, arch.name, "boot", "same", "the same images as before")
            return
        found = list(broken(before.boot, now.boot))
        again = {case for _, case, _, _ in broken(before.boot, self.shop.once_more(arch, number))} if found else set()
        upstream = {case.name for case in now.boot.request.cases if baseline.is_upstream(case)}
        for verdict, case, text, where in found:
            status, words = with_second_boot(verdict, case in again, case in upstream)
            self.add(number, arch.name, "boot", status, f"{text}, {words}", f"{now.boot.directory}/{where}")
        if not any(check.bad for check in self.checks if (check.patch, check.arch, check.tool) == (number, arch.name, "boot")):
            self.add(number, arch.name, "boot", "pass", f"{now.boot.count('pass')} cases pass")

    def judge_base(self):
        for arch in self.archs:
            state = self.shop.state(arch, 0)
            if not state.boot:
                raise BadInput(f"the base: {state.problem}, see {state.log}")
            for finding in state.boot.findings:
                if not settled(finding):
                    self.add(0, arch.name, "base", finding.verdict.name.lower(), f"{finding.case} {finding.text}".strip(),
                             f"{state.boot.directory}/{finding.where}")

    # --- the whole ---

    def judge_cell(self, cell, arch):
        """One cell of ci/matrix.  Returns its row for the report."""
        last = len(self.series.patches)
        place, kinds = {"mode": cell.mode, "config": cell.config}, {"base": 0, "series": last}
        if self.shop.against:
            kinds["against"] = "against"
        states = {kind: self.shop.state(arch, where, **place) for kind, where in kinds.items()}
        row = {"arch": arch.name, "mode": cell.mode, "config": cell.config, "status": "pass", "summary": ""}
        now = states["series"]
        if not now.boot:
            self.add(0, arch.name, cell.name, "fail", now.problem, now.log)
            return {**row, "status": "fail", "summary": now.problem}
        boot = now.boot
        words = {kind: compared(boot, states[kind].boot) for kind in ("base", "against") if kind in states and states[kind].boot}
        for finding in boot.findings:
            same = words.get("base", {}).get(finding.case) == "same" and finding.verdict == Verdict.FAIL
            status = "known" if same else finding.verdict.name.lower()
            history = "".join(f"; {words[kind][finding.case]} against {perf.WORDS[kind]}" for kind in words if finding.case in words[kind])
            self.add(0, arch.name, cell.name, status, f"{finding.case} {finding.text}".strip() + history, f"{boot.directory}/{finding.where}")
        if boot.verdict in (Verdict.PASS, Verdict.KNOWN):
            self.add(0, arch.name, cell.name, "pass")
        return {**row, "status": boot.verdict.name.lower(), **{status: boot.count(status) for status in ("pass", "failed", "skip", "known")},
                **{kind: sorted(f"{case} {word}" for case, word in found.items()) for kind, found in words.items()}}

    def judge_matrix(self):
        archs = {arch.name: arch for arch in self.archs}
        cells, left = matrix.chosen(matrix.load(), archs)
        ends = [0, len(self.series.patches), *(["against"] if self.shop.against else [])]
        self.shop.prepare([(archs[cell.arch], where, cell.mode, cell.config) for cell in cells for where in ends])
        rows = []
        for cell in cells:
            rows.append(self.judge_cell(cell, archs[cell.arch]))
            print(f"  {cell.name:<18} {rows[-1]['status']}", flush=True)
        return rows + [{"arch": c.arch, "mode": c.mode, "config": c.config, "status": "left",
                        "summary": c.why or "slow: MATRIX=all"} for c in left]

    # --- what it costs ---

    def judge_exact(self, arch, primary, kinds):
        """Rows of make bench; @kinds: {name: where}.  A change is laid at the door of the only patch that it can be of."""
        measured = {kind: [perf.values_of(self.shop.measure(arch, where, "bench", primary, again=again)) for again in (0, 1)]
                    for kind, where in kinds.items()}
        rows = perf.exact_rows(measured)
        for row in (r for r in rows if not r["exact"]):
            self.add(0, arch.name, "cost", "harness", f"{row['mode']}: two boots of one image differ in {row['metric']}")
        suspects, accepted = self.suspects(arch), perf.load_accepted()
        changes = perf.as_one(perf.exact_changes(arch.name, rows, accepted))
        hint = f"; in one of patches {', '.join(map(str, suspects))}" if len(suspects) > 1 else ""
        if "against" in kinds:
            self.add_all(suspects[0] if len(suspects) == 1 else 0, arch.name, "cost",
                         [(status, text + hint * (status == "fail")) for status, text in changes])
        if "base" in kinds:
            self.add_all(0, arch.name, "cost", perf.as_one(perf.exact_changes(arch.name, rows, accepted, "base")))
        return rows

    def suspects(self, arch):
        """The patches that have changed since AGAINST in what this architecture's kernel is made of.

        All that there are, if one was dropped: what it did is in none of them.
        """
        moved = self.shop.moved()
        changed = {number for number, word, _ in moved if word != "same" or any(n is None for n, _, _ in moved)}
        return [patch.number for patch in self.series.patches
                if patch.number in changed and static.built_here(patch.files, arch.kernel_arch)]

    def judge_rates(self, arch, rates):
        last = len(self.series.patches)
        images = {"A": "against", "B": last}
        if not self.shop.against:
            return {"why": "no earlier revision was given (AGAINST=)"}
        if self.shop.state(arch, "against").images[0] == self.shop.state(arch, last).images[0]:
            return {"why": "the two revisions' kernels are the same file"}
        given_up = self.shop.given_up(arch, images, rates)
        found = perf.blocks_of(functools.partial(self.rate_boot, arch), rates, images,
                               functools.partial(self.shop.block, arch, images, len(given_up)))
        rows = perf.rate_rows(found)
        if not perf.usable(rows) and len(given_up) + 1 < perf.ATTEMPTS:  # what disturbed them may be gone
            self.shop.give_up(arch, images, rates, rows)
        self.add_all(0, arch.name, "cost", perf.rate_changes(rows, given_up))
        return {"rows": rows, "given_up": given_up, "measured_by": sorted(self.shop.measured_by),
                "blocks": {f"{rate.mode}, {rate.vcpus} vCPUs": blocks for rate, blocks in found.items()}}

    def rate_boot(self, arch, where, vcpus, modes, number):
        print(f"    {arch.name}, boot {number}, {vcpus} vCPUs", flush=True)
        return self.shop.measure(arch, where, "scale", modes, vcpus=vcpus, again=number, keep=False)


def states_of_patches(archs, numbers):
    """Before and after each of these."""
    return [(arch, n, EACH_PATCH, "") for n in sorted({n - 1 for n in numbers} | set(numbers)) for arch in archs]


def with_second_boot(verdict, again, upstream):
    """(status, in words) of what went wrong in one boot after a patch, and in another one or not.

    Some of upstream's tests fail now and then under emulation, whatever the patch; ours may not.
    """
    if again:
        return verdict.name.lower(), "in both of two boots"
    if upstream and verdict in (Verdict.FAIL, Verdict.TIMEOUT):
        return "left", "in one of two boots: upstream's test, laid at no patch"
    return verdict.name.lower(), "in one of two boots"


def broken(before, now):
    """[(Verdict, case, text, where)]: what does not hold after a patch, and did before it."""
    earlier = {r.name: r for r in before.outcome.stream.results}
    results = {r.name: r for r in now.outcome.stream.results}
    for finding in now.findings:
        was, result = earlier.get(finding.case), results.get(finding.case)
        alike = was and result and (was.status, baseline.signature(was)) == (result.status, baseline.signature(result))
        if settled(finding) or alike and finding.verdict in (Verdict.FAIL, Verdict.SKIP):
            continue
        history = f" ({'passed' if was.status == 'pass' else was.status} before this patch)" if was else ""
        yield finding.verdict, finding.case, f"{finding.case} {finding.text}".strip() + history, finding.where
    reported = {finding.case for finding in now.findings if not settled(finding)}
    for name, result in results.items():
        if result.status == "skip" and name not in reported and name in earlier and earlier[name].status == "pass":
            yield Verdict.SKIP, name, f"{name} skips: {result.reason} (passed before this patch)", f"tests.ktap:{result.line}"


def compared(boot, other):
    """{case: new, fixed, same or different}, of those that do not pass on both."""
    there = {r.name: baseline.Result(r.status, baseline.signature(r)) for r in other.outcome.stream.results}
    found = {}
    for result in boot.outcome.stream.results:
        if result.name in there and there[result.name].status != "skip":
            word = baseline.compare(result, there[result.name])
            if word:
                found[result.name] = word
    return found


def described(series, moved, numbers):
    """The patches, for the report."""
    words = {number: word for number, word, _ in moved}
    return [{"number": patch.number, "subject": patch.subject, "patch_id": patch.ident, "message_id": patch.message_id,
             "since": words.get(patch.number, "") if moved else "", "judged": patch.number in numbers} for patch in series.patches]


def not_applied(problem, series, archs, this):
    """A series that does not apply is a result too."""
    check = Check(problem.number, "", "apply", "fail", problem.said.strip().splitlines()[-1], "", repeat(0, ""))
    print(f"  FAIL patch {problem.number} apply: {check.summary}")
    return document(this, series, archs, [check], described(series, [], []), [])


def document(this, series, archs, checks, patches, dropped, **more):
    """What revision.json holds."""
    checks = [dataclasses.asdict(check) for check in checks]
    bad = report.findings({"checks": checks})
    cover = series.cover or series.patches[0]
    return {"version": 1, "verdict": bad[0]["status"] if bad else "pass", "run": this.directory.name,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "repository": run.repository(),
            "base": arch_.read_facts(series.directory / "base"), "of": series.where, "against": run.knob("AGAINST"),
            "subject": cover.message["subject"], "cover_message_id": cover.message_id, "patchset_hash": series.patchset_hash, "revision": series.version,
            "archs": [arch.name for arch in archs], "at_the_end": AT_THE_END, "patches": patches, "dropped": dropped,
            "checks": checks, "command": repeat(0, archs[0].name if len(archs) == 1 else ""),
            **more}


def judge_whole(judge, more):
    """The part of the document that is about the series as one; of some patches alone, what AGAINST can be asked."""
    exact, rates = perf.load_metrics()
    ends = {"base": 0, **({"against": "against"} if judge.shop.against else {}), "series": len(judge.series.patches)}
    some = bool(run.knob("PATCHES"))
    if some and not judge.shop.against:
        return
    if not some:
        more.update(matrix=judge.judge_matrix(), rates={})
    more["exact"] = {}
    for arch in judge.archs:
        judges = {"exact": lambda arch=arch: judge.judge_exact(arch, exact, {k: v for k, v in ends.items() if k != "base" or not some})}
        if not some:
            judges["rates"] = lambda arch=arch: judge.judge_rates(arch, rates)
        for kind, function in judges.items():
            try:
                more[kind][arch.name] = function()
            except BadInput as error:
                judge.add(0, arch.name, "cost", getattr(error, "status", "harness"), str(error))


def judge_all(judge, numbers, more):
    judge.shop.prepare(states_of_patches(judge.archs, numbers))
    if not run.knob("PATCHES"):
        judge.judge_base()
    judge.add_all(0, "", "cover letter", static.cover_letter(judge.series, judge.shop.base))
    for number in numbers:
        judge.judge_patch(number)
    judge_whole(judge, more)


def plan(archs):
    perf.check_declared(*perf.load_metrics())
    perf.load_accepted()
    cells, _ = matrix.chosen(matrix.load(), archs)
    for cell in cells:
        names = cases.select(cases.default_path("tests"), cell.arch, cell.mode, (), cell.config)
        print(f"  {cell.name:<18} {len(names)} cases")
    return 0


def series_knobs():
    """(the series, the earlier one or None), copied to where nobody changes them."""
    place = pathlib.Path(run.knob("OUT")) / "revision"
    series = series_.load(run.knob("OF") or str(ROOT / "kernel-patches" / run.knob("BASE")), run.knob("BASE"), place / "of")
    against = series_.load(run.knob("AGAINST"), run.knob("BASE"), place / "against") if run.knob("AGAINST") else None
    return series, against


def revision(argv):
    archs = [arch_.load(name) for name in argv if name != "--plan"]
    if "--plan" in argv:
        return plan([arch.name for arch in archs])
    series, against = series_knobs()
    numbers = chosen(len(series.patches))
    this = run.Run("revision")
    try:
        shop = Workshop(archs, this, series, against)
    except NotApplied as problem:
        if problem.name != "OF":
            raise BadInput(f"AGAINST={run.knob('AGAINST')} does not apply: {problem.said.strip().splitlines()[-1]}") from None
        return report.write(this.directory, not_applied(problem, series, archs, this))
    judge, moved = Judge(archs, shop, series), shop.moved()
    dropped = [subject for number, word, subject in moved if number is None]
    more = {"compilers": shop.compilers, "qemu": {arch.name: run.first_line(arch.qemu, "--version") for arch in archs}}
    try:
        judge_all(judge, numbers, more)
    except KeyboardInterrupt:
        judge.add(0, "", "make revision", "interrupted", "not finished; the same command goes on")
    except (BadInput, OSError, subprocess.SubprocessError) as error:
        judge.add(0, "", "make revision", "harness", f"not finished: {error}")
    done = {check.patch for check in judge.checks}
    return report.write(this.directory, document(this, series, archs, judge.checks, described(series, moved, done), dropped, **more))


if __name__ == "__main__":
    sys.exit(run.main(revision, sys.argv[1:]))
