# SPDX-License-Identifier: GPL-2.0
"""make revision: judge each patch of a series, and the whole; make check-series.

After each patch: a build, whose warnings are compared with those before; and a boot, if the
images are others, in which no case may fail that passed before.  Results are kept by content:
an interrupted run goes on, and a patch costs nothing if it and those before it are the same.
"""
import contextlib
import dataclasses
import pathlib
import re
import subprocess
import time
from collections.abc import Iterable, Sequence
from typing import Any

from ci.build import images
from ci.build.cache import Cache
from ci.build.files import first_line
from ci.build.git import repository
from ci.config import Config
from ci.facts import cases, matrix
from ci.facts.arch import Arch
from ci.facts.text import BadInput, facts
from ci.judge import upstream
from ci.judge.check import Check, Status, findings, worst
from ci.judge.results import Boot, Run
from ci.revision import cost, patchcheck
from ci.revision import series as series_
from ci.revision.patchcheck import Static
from ci.revision.series import Patch, Series
from ci.revision.states import (AT_THE_END, NAME, Builder, Move, NotApplied, NotBuilt, States,
                                Tree, first_error, settled, under)
from ci.revision.whole import Whole

Document = dict[str, Any]   # revision.json: ci/revision.schema.json
# What upstream's tests are built from; a patch that changes none of it can't break them.
OF_TESTS = re.compile(r"tools/testing/selftests/|tools/include/|(?:arch/\w+/)?include/uapi/")
# Of a case, what it did before a patch
BEFORE = {"pass": "passed", "fail": "failed", "skip": "skipped", "timeout": "timed out"}


class Judge:
    """What is said of a revision, by its states."""

    def __init__(self, config: Config, series: Series, states: States):
        self.config, self.series, self.states = config, series, states
        self.static = Static(config, states.tree, states.cache)
        self.checks: list[Check] = []

    def say(self, tool: str, checks: Iterable[Check], patch: int = 0, arch: str = "") -> None:
        """No check is a pass."""
        for check in list(checks) or [Check(Status.PASS)]:
            fine = check.status in (Status.PASS, Status.SAME)
            check = dataclasses.replace(check, tool=tool, patch=patch, arch=arch, case="",
                                        summary=": ".join(filter(None, (check.case,
                                                                        check.summary))),
                                        repeat="" if fine else repeat(self.config, patch, arch))
            self.checks.append(check)
            if not check.status.good:
                where = f"patch {patch}" if patch else "series"
                first = check.summary.partition("\n")[0]
                print(f"  {check.status.name} {where} {arch} {tool}: {first}", flush=True)

    def judge(self, numbers: Sequence[int], document: Document) -> None:
        """All of it; parts of the document are there as soon as they are known."""
        places = sorted({n - 1 for n in numbers} | set(numbers))
        self.states.prepare([(arch, n, "", "") for n in places for arch in self.config.archs])
        if not self.config.patches:
            self.base()
        complaints = patchcheck.cover_letter(self.series, self.states.tree.base)
        self.say("cover letter", patchcheck.checks(Status.FAIL, *complaints))
        for number in numbers:
            self.patch(self.series.patches[number - 1])
        Whole(self.config, self.series, self.states, self.say, document).judge()

    def base(self) -> None:
        for arch in self.config.archs:
            state = self.states.state(arch, 0)
            if not state.boot:
                raise BadInput(f"the base: {state.problem}, see {state.log}")
            checks = [c for c in under(state.boot, state.boot.findings) if not settled(c)]
            if checks:
                self.say("base", checks, 0, arch.name)

    def patch(self, patch: Patch) -> None:
        start = time.monotonic()
        for tool, checks in self.static.of_patch(patch):
            self.say(tool, checks, patch.number)
        for arch in self.config.archs:
            self.build(arch, patch)
        print(f"  {patch.number}/{len(self.series.patches)} {time.monotonic() - start:4.0f} s  "
              f"{patch.subject}", flush=True)

    def build(self, arch: Arch, patch: Patch) -> None:
        state, place = self.states.state(arch, patch.number), (patch.number, arch.name)
        if not state.boot or not state.request:
            self.say("build", [state.check], *place)
            return
        self.say("build", [], *place)
        for tool, checks in self.static.warnings(arch, patch, state.request.kernel):
            self.say(tool, checks, *place)
        before = self.states.before(arch, patch.number)
        if not before.boot or before.images == state.images:
            self.say("boot", [Check(Status.SAME, "the same images as before")], *place)
        else:
            self.say("boot", self.boot(arch, patch.number, before.boot, state.boot), *place)

    def boot(self, arch: Arch, number: int, before: Boot, now: Boot) -> list[Check]:
        checks = broken(before, now)
        if checks:
            again = {c.case for c in broken(before, self.states.once_more(arch, number))}
            theirs = {c.name for c in now.request.cases if upstream.is_upstream(c)}
            checks = [with_second_boot(check, check.case in again, check.case in theirs)
                      for check in under(now, checks)]
        if worst(checks).good:
            checks.append(Check(Status.PASS, f"{now.count('pass')} cases pass"))
        return checks


def broken(before: Boot, now: Boot) -> list[Check]:
    """What does not hold after a patch, and did before it."""
    earlier = {r.name: r for r in before.outcome.stream.results}
    results = {r.name: r for r in now.outcome.stream.results}
    found = []
    for check in (c for c in now.findings if not settled(c)):
        was, result = earlier.get(check.case), results.get(check.case)
        alike = was and result and upstream.result_of(was) == upstream.result_of(result)
        if alike and check.status in (Status.FAIL, Status.SKIP):
            continue
        history = f" ({BEFORE[was.status]} before this patch)" if was else ""
        found.append(dataclasses.replace(check, summary=check.summary + history))
    reported = {check.case for check in now.findings if not settled(check)}
    passed = {name for name, was in earlier.items() if was.status == "pass"} - reported
    return found + [Check(Status.SKIP, f"skips: {r.reason} (passed before this patch)", name,
                          f"tests.ktap:{r.line}")
                    for name, r in results.items() if r.status == "skip" and name in passed]


def with_second_boot(check: Check, again: bool, theirs: bool) -> Check:
    """What goes wrong in one boot after a patch, and in another one or not.

    Some of upstream's tests fail now and then under emulation, whatever the patch; ours may not.
    """
    if theirs and not again and check.status in (Status.FAIL, Status.TIMEOUT):
        words = "failed in one of two boots; upstream test, not blamed on this patch"
        check = dataclasses.replace(check, status=Status.NOT_CHECKED)
    else:
        words = "in both of two boots" if again else "in one of two boots"
    return dataclasses.replace(check, summary=f"{check.summary}, {words}")


# --- the document ---

def repeat(config: Config, patch: int, arch: str) -> str:
    words = [f"ARCH={arch}"] * bool(arch) + [f"PATCHES={patch}"] * bool(patch)
    fields = ("revision", "against", *(() if patch else ("patches", "matrix")))
    return " ".join(["make revision", *words, *config.given(*fields)])


def chosen(patches: str, count: int) -> list[int]:
    """Which patches PATCHES= names, of so many."""
    wanted = set() if patches else set(range(1, count + 1))
    for word in patches.replace(",", " ").split():
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        if not match:
            raise BadInput(f"PATCHES={patches}: want numbers and ranges, as 3 5-7")
        wanted |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    if not wanted or not wanted <= set(range(1, count + 1)):
        raise BadInput(f"PATCHES={patches}: the series has patches 1 to {count}")
    return sorted(wanted)


def document_of(config: Config, series: Series, run: Run, checks: Sequence[Check],
                moved: Sequence[Move] = (), **more: object) -> Document:
    words = {number: word for number, word, _ in moved}
    judged = {check.patch for check in checks}
    archs = [arch.name for arch in config.archs]
    bad = findings(checks)
    return {"version": 1, "verdict": (bad[0].status if bad else Status.PASS).word,
            "run": run.directory.name, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "repository": repository(), "base": facts(series.directory / "base"),
            "of": series.where, "against": config.against, "subject": series.first.title,
            "cover_message_id": series.first.message_id, "patchset_hash": series.patchset_hash,
            "revision": series.version, "archs": archs, "at_the_end": AT_THE_END,
            "patches": [{"number": patch.number, "subject": patch.subject, "patch_id": patch.ident,
                         "message_id": patch.message_id, "since": words.get(patch.number, ""),
                         "judged": patch.number in judged} for patch in series.patches],
            "dropped": [subject for number, _, subject in moved if number is None],
            "checks": [{"patch": c.patch, "arch": c.arch, "tool": c.tool, "status": c.status.word,
                        "summary": c.summary, "log": c.where, "repeat": c.repeat} for c in checks],
            "command": repeat(config, 0, archs[0] if len(archs) == 1 else ""), **more}


def check_declared(config: Config) -> None:
    """What is refused before anything is built."""
    cost.check_declared(*cost.load_metrics())
    cost.load_accepted()
    cells, _ = matrix.chosen(matrix.load(config.base_facts), [a.name for a in config.archs],
                             config.matrix == "all")
    for cell in cells:
        found = cases.select(cases.FILES["tests"], cell.arch, cell.mode, config.base_facts, (),
                             cell.config)
        print(f"  {cell.name:<18} {len(found)} cases")


def alone(config: Config) -> contextlib.AbstractContextManager[None]:
    return images.alone(config.out / f"{NAME}.lock", f"judges a revision in {config.out}")


def revision(config: Config) -> tuple[pathlib.Path, Document]:
    """(directory of the run, revision.json), of which nothing is written yet."""
    check_declared(config)
    with alone(config):
        place, own = config.out / NAME, str(config.base_facts.directory)
        series = series_.load(config.revision or own, config.base, place / "of")
        numbers = chosen(config.patches, len(series.patches))
        against = (series_.load(config.against, config.base, place / "against")
                   if config.against else None)
        images.build(config)
        with images.booting(config):
            run = Run(config, "revision")
            return run.directory, judged_document(config, run, series, against, numbers)


def judged_document(config: Config, run: Run, series: Series, against: Series | None,
                    numbers: Sequence[int]) -> Document:
    try:
        tree = Tree(config, series, against)
    except NotApplied as problem:
        if problem.knob == "AGAINST":
            raise BadInput(f"AGAINST={config.against} does not apply: {problem}") from None
        check = Check(Status.FAIL, str(problem), patch=problem.number, tool="apply",
                      repeat=repeat(config, 0, ""))
        print(f"  FAIL patch {problem.number} apply: {check.summary}")
        return document_of(config, series, run, [check])
    judge = Judge(config, series, States(config, run, tree))
    more: Document = {
        "compilers": {a.name: images.toolchain(config, a).version for a in config.archs},
        "qemu": {a.name: first_line(config.qemu or a.qemu, "--version") for a in config.archs}}
    try:
        judge.judge(numbers, more)
    except KeyboardInterrupt:
        judge.say("make revision", [Check(Status.INTERRUPTED,
                                          "not finished; the same command goes on")])
    except (BadInput, OSError, subprocess.SubprocessError) as error:
        judge.say("make revision", [Check(Status.HARNESS, f"not finished: {error}")])
    return document_of(config, series, run, judge.checks, tree.moved(), **more)


# --- make check-series ---

def check_series(config: Config) -> int:
    """Each patch is clean for checkpatch, and builds without a warning: bisectable."""
    images.build(config)
    with alone(config), images.booting(config):
        series = series_.load(str(config.base_facts.directory), config.base,
                              config.out / NAME / "of")
        tree = Tree(config, series)
        complaints = [f"{patch.path.name}: {text}" for patch in series.patches
                      for text in patchcheck.checkpatch(tree.path, patch)]
        print("\n".join(complaints) or f"  checkpatch --strict: clean but for {patchcheck.IGNORE}")
        builder = Builder(config, tree, Cache(config.cache))
        return int(bool(complaints)) or check_builds(config, series, builder)


def check_builds(config: Config, series: Series, builder: Builder) -> int:
    for patch in series.patches:
        start, where = time.monotonic(), f"  {patch.number}/{len(series.patches)}"
        for arch in config.archs:
            log = builder.tree.path.parent / f"{arch.name}.check.log"
            try:
                build_strictly(config, arch, patch, builder, log)
            except NotBuilt as error:
                print(f"{where} {patch.subject}: does not build for {arch.name}: {error}; "
                      f"full log: {log}", flush=True)
                return 1
        print(f"{where} {time.monotonic() - start:4.0f} s  {patch.subject}", flush=True)
    return 0


def build_strictly(config: Config, arch: Arch, patch: Patch, builder: Builder,
                   log: pathlib.Path) -> None:
    """KVM, what else the patch changes, and upstream's tests if it has to do with them."""
    builder.tree.go_to(patch.number)
    files = [*patchcheck.compiled_here(patch.files, arch), "virt/kvm/"]
    status, said = patchcheck.compiled(
        config, arch, builder.tree.path / f"out-{arch.name}-check",
        images.image(config, arch).config.read_text(), files, "KCFLAGS=-Werror")
    log.write_text(said)
    if status:
        raise NotBuilt(first_error(log))
    if any(map(OF_TESTS.match, patch.files)):
        # As tools/testing/selftests/lib.mk has it
        builder.tests(arch, patch.number, log, "upstream", USERCFLAGS="-Werror")
