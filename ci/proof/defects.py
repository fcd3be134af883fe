# SPDX-License-Identifier: GPL-2.0
"""Break the series in known ways, and see whether that is noticed.

kernel-patches/README.md has the format of a defect.  There are three kinds: mutants, which
cases must notice; plants, known costs that the benchmarks must find; and spoiled patches, which
must be the first finding of make revision.
"""
import contextlib
import dataclasses
import fnmatch
import functools
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ci import config as config_
from ci.boot import request as request_
from ci.build import config_check, files, images, progress
from ci.build.git import git
from ci.config import Config
from ci.facts import base as base_
from ci.facts import cases as cases_
from ci.facts.arch import Arch
from ci.facts.text import ROOT, BadInput
from ci.judge import check as check_
from ci.judge.check import Check, Status
from ci.judge.results import DISK_IS_FULL, Boot, Run
from ci.measure import faults, scaling
from ci.revision import judge as revision_

DEFECTS = base_.PATCHES / "defects"
TEMPLATE = ROOT / "ci/proof/templates/defects.txt.j2"
SECTION = re.compile(r"^Base: (\S+)\n", re.MULTILINE)
FIELD = re.compile(r"^([A-Z][a-z]+(?:-by)?): (.*)$", re.MULTILINE)
DIFF = "\ndiff --git "
CASES = cases_.FILES["tests"]
KILLS = (Status.FAIL, Status.TIMEOUT, Status.SPLAT, Status.LOST, Status.SKIP)
# Not scaled.  The slowest case, upstream's demand_paging_test on arm64, takes eight; one that
# hangs takes all of it.  With a configuration of its own, which is slower, the cases' limits hold.
CASE_SECONDS = 15
TOLERANCE = {"Bench": 0.02, "Scale": 0.15}
NOT_TRIED = "ERROR"

Row = dict[str, str]
Verdict = tuple[bool, str]  # whether a defect was noticed, and how


@dataclasses.dataclass(frozen=True)
class Defect:
    path: pathlib.Path
    why: str
    archs: tuple[str, ...]
    fields: dict[str, str]  # all but Arch:
    diff: str

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def killers(self) -> list[str]:
        return self.fields["Killed-by"].split()

    @property
    def planted(self) -> tuple[str, str, list[int]]:
        """(Bench or Scale, mode, numbers)"""
        (field, text), = (pair for pair in self.fields.items() if pair[0] in TOLERANCE)
        mode, *numbers = text.split()
        if len(numbers) != {"Bench": 1, "Scale": 2}[field]:
            raise ValueError
        return field, mode, list(map(int, numbers))

    @property
    def moved(self) -> tuple[int, int]:
        """(number of the spoiled patch, the number that it gets)"""
        number = int(self.fields["Patch"])
        return number, int(self.fields.get("Before", number))

    @property
    def finds(self) -> tuple[str, str, str, int]:
        """(tool, status, words, patch) of what make revision has to find."""
        tool, status, words = self.fields["Finds"].split(" | ")
        patch = {"": self.moved[1], "the whole": 0}[self.fields.get("Of", "")]
        return tool, status, words, patch


Trial = tuple[Defect, Config]  # with the knobs for it, which name one architecture


class Trials:
    """A run, and a tree of its own: the series, with one defect at a time."""

    def __init__(self, config: Config, what: str):
        self.config, self.place = config, config.out / "mutant"
        self.tree, self.run = self.place / "linux", Run(config, what)

    def build(self, config: Config, defect: Defect | None, label: str) -> None:
        """The kernel of an architecture, with a defect or without any."""
        (arch,), log = config.archs, self.run.directory / f"{label}.build.log"
        git(self.tree, "reset", "-q", "--hard")
        if defect:
            git(self.tree, "apply", "-", input=defect.diff)
        who = "" if defect else "the series without a defect "
        for target in ("configuration", "kernel"):
            with open(log, "ab") as stream:
                command = images.guest_make(config, arch, target, SERIES="mutant")
                if progress.call(command, stream, env=config_.environment()):
                    raise BadInput(f"{who}does not build, see {log}")
            config_check.check(images.image(config, arch, self.place).config,
                               images.toolchain(config, arch).fragments)

    def request(self, config: Config, kind: str, icount: bool = False) -> request_.Request:
        place = self.place.resolve()
        request, = request_.requests(config, kind, True, icount, images=place)
        return dataclasses.replace(request, initramfs=place / f"{request.arch.name}.cpio")

    def boot(self, request: request_.Request, label: str) -> Boot:
        return self.run.trial(request, self.run.directory / label)


@dataclasses.dataclass(frozen=True)
class Kind:
    """How the files of a directory of kernel-patches/defects/ are read, tried and reported."""
    directory: str
    what: str       # name of its defects, and of its table
    want: str       # of a file, for the refusal
    fits: Callable[[Defect], Any]
    good: str       # verdicts
    bad: str
    line: str       # of the table
    # Tries a defect, with what without() returned; BadInput if it cannot be tried.
    attempt: Callable[[Trials, Defect, Config, Any], Verdict]
    # Tries the series without a defect.
    without: Callable[[Trials, list[Trial]], Any] = lambda *_: None
    # The knobs for a defect, from those for an architecture
    knobs: Callable[[Config, Defect], Config] = lambda config, _: config
    each_arch: bool = False  # has a table for itself, and must have a defect


# --- files ---

def read(path: pathlib.Path, base: str, kind: Kind) -> Defect | None:
    """The defect of a base, or None if the file has none for it."""
    head, *rest = SECTION.split(path.read_text())
    sections = dict(zip(rest[::2], rest[1::2]))
    if set(sections) - set(base_.names()) or (sections and DIFF in head):
        raise BadInput(f"{path}: want one diff for all bases, or one below each line Base: of "
                       + " ".join(base_.names()))
    if sections and base not in sections:
        return None
    header, marker, diff = (head + sections.get(base, "")).partition(DIFF)
    fields: dict[str, str] = {}
    for name, text in FIELD.findall(header):
        fields[name] = f"{fields.get(name, '')} {text}".strip()
    archs = tuple(fields.pop("Arch", "").split())
    defect = Defect(path, header.partition("\n")[0], archs, fields, marker[1:] + diff)
    with contextlib.suppress(KeyError, ValueError):
        if defect.why and archs and kind.fits(defect):
            return defect
    raise BadInput(f"{path}: expected a first line that says what is wrong, then Arch:, "
                   f"{kind.want}")


def load(kind: Kind, base: str, patterns: Sequence[str] = ()) -> list[Defect]:
    """Those for a base whose names match one of the shell patterns."""
    found = [read(path, base, kind) for path in sorted((DEFECTS / kind.directory).glob("*.patch"))]
    chosen = [defect for defect in found if defect
              and any(fnmatch.fnmatchcase(defect.name, p) for p in patterns or ("*",))]
    if not chosen:
        raise BadInput(f"nothing in kernel-patches/defects/{kind.directory} is for BASE={base}"
                       + (f" and matches MUTANTS={' '.join(patterns)}" if patterns else ""))
    return chosen


def plan(config: Config, kind: Kind) -> list[tuple[Arch, list[Trial]]]:
    """The trials of each architecture; BadInput if there is none, or one cannot be made."""
    defects, found = load(kind, config.base, config.mutants), []
    for arch in config.archs:
        here = dataclasses.replace(config, arch=(arch.name,))
        found.append((arch, [(d, kind.knobs(here, d)) for d in defects if arch.name in d.archs]))
    idle = [arch.name for arch, mine in found if not mine]
    if len(idle) == len(found) or (idle and kind.each_arch):
        raise BadInput(f"MUTANTS={' '.join(config.mutants)}: none of them is for "
                       f"{' '.join(idle)}; say ARCH= as well")
    return found


def where(config: Config) -> str:
    """ARCH, ARCH/MODE or ARCH/MODE/CONFIG."""
    return "/".join(filter(None, (*config.arch, *config.mode, config.config)))


# --- mutants ---

def killers_of(config: Config, mutant: Defect) -> Config:
    """The knobs to boot those killers that the mode and the configuration have."""
    (arch,), name = config.archs, mutant.fields.get("Config", "")
    mode = mutant.fields.get("Mode") or arch.modes[0].name
    unknown = set(mutant.killers) - {case.name for case in cases_.load(CASES)}
    try:
        if unknown:
            raise BadInput(f"no such case: {' '.join(sorted(unknown))}")
        killers = cases_.select(CASES, arch.name, mode, config.base_facts, mutant.killers, name)
        config = dataclasses.replace(config, mode=(mode,), config=name,
                                     cases=tuple(case.name for case in killers),
                                     timeout=0 if name else CASE_SECONDS)
        if not killers:
            raise BadInput(f"{where(config)} has none of the cases in Killed-by:")
    except BadInput as error:
        raise BadInput(f"{mutant.path}: {error}") from None
    return config


def fail_without(trials: Trials, mine: list[Trial]) -> dict[str, dict[str, str]]:
    """{where: {case: what is wrong with it}} of the killers that fail without any mutant."""
    wrong = {}
    for place in sorted({where(config) for _, config in mine}):
        here, label = [c for _, c in mine if where(c) == place], place.replace("/", "-")
        killers = {case for config in here for case in config.cases}
        config = dataclasses.replace(here[0], cases=tuple(sorted(killers)))
        trials.build(config, None, label)
        findings = trials.boot(trials.request(config, "tests"), f"{label}-without").findings
        if any(not finding.case for finding in findings):
            raise BadInput(f"the series without a mutant, {label}: {findings[0].summary}")
        wrong[place] = {finding.case: finding.summary for finding in findings}
        print(f"  {label}: {len(killers) - len(wrong[place])} of {len(killers)} cases pass without "
              "a mutant", flush=True)
    return wrong


def try_mutant(trials: Trials, mutant: Defect, config: Config,
               wrong: dict[str, dict[str, str]]) -> Verdict:
    unfit = [f"{case} fails without a mutant: {summary}"
             for case, summary in wrong[where(config)].items() if case in config.cases]
    if unfit:
        raise BadInput("; ".join(unfit))
    label = f"{config.arch[0]}-{mutant.name}"
    trials.build(config, mutant, label)
    return judge_mutant(trials.boot(trials.request(config, "tests"), label), config.cases)


def judge_mutant(boot: Boot, killers: Sequence[str]) -> Verdict:
    how = {f.case: f.status for f in boot.findings if f.status in KILLS and f.case}
    lost = any(f.status in (Status.LOST, Status.TIMEOUT) and "tests.ktap" not in f.where
               for f in boot.findings)
    trouble = [f.summary for f in boot.findings if f.summary == DISK_IS_FULL or
               f.status == Status.HARNESS and not lost]
    if boot.outcome.how == "killed" or not boot.outcome.stream.plan:
        trouble += [f.summary for f in boot.findings] or ["the machine did not come up"]
    if trouble:
        raise BadInput("; ".join(trouble))
    heard = {result.name for result in boot.outcome.stream.results}
    missed = [k for k in killers if k not in how and not (lost and k not in heard)]
    noticed = [k if how[k] == Status.FAIL else f"{k}:{how[k].word}" for k in killers if k in how]
    if missed or not noticed:
        return False, "not noticed by " + " ".join(missed or killers)
    rest = "" if len(noticed) == len(killers) else " (and the machine is lost)"
    return True, "by " + " ".join(noticed) + rest


def unnamed_cases(config: Config, arch: Arch, mutants: list[Defect]) -> list[str]:
    """Our own cases that no mutant of this architecture names."""
    named = {killer for m in mutants if arch.name in m.archs for killer in m.killers}
    wanted = {case.name for mode in arch.modes for case in cases_.select(
        CASES, arch.name, mode.name, config.base_facts, config="debug") if case.ours}
    return sorted(wanted - named)


# --- plants ---

def boot_and_read(trials: Trials, request: request_.Request, label: str,
                  reader: Callable[[Boot], Any]) -> Any:
    boot = trials.boot(request, f"{label}-{request.directory}")
    numbers = None if boot.findings else reader(boot)
    if boot.findings or not numbers:
        said = [finding.summary for finding in boot.findings] or ["no faults in the timeline"]
        raise BadInput(f"{label}, {request.name}: {said[0]}")
    return numbers


def measure(trials: Trials, plant: Defect, config: Config, label: str) -> list[float]:
    """Instructions of a fault; or the rates with one vCPU and with the plant's number.

    The median of single faults: the price of a batch has ticks in it.
    """
    field, mode, (vcpus, *_) = plant.planted
    config = dataclasses.replace(config, cases=(mode,))
    if field == "Bench":
        request = faults.with_timeline(trials.request(config, "bench", icount=True))
        timelines = boot_and_read(trials, request, label, faults.read_timelines)
        return [timelines[mode].distribution()[1]]
    request = trials.request(config, "scale")
    points = [point for n in (1, vcpus) for point in boot_and_read(
        trials, scaling.with_lockstep(request, n), label, scaling.points_of)]
    rates = {p.vcpus: p.rate for p in points if p.quantum == scaling.QUANTA[0]}
    return [rates[1], rates[vcpus]]


def measure_without(trials: Trials, mine: list[Trial]) -> dict[str, list[float]]:
    trials.build(mine[0][1], None, where(mine[0][1]))
    return {plant.name: measure(trials, plant, config, f"without-{plant.name}")
            for plant, config in mine}


def try_plant(trials: Trials, plant: Defect, config: Config,
              without: dict[str, list[float]]) -> Verdict:
    trials.build(config, plant, f"{config.arch[0]}-{plant.name}")
    return judge_plant(plant, without[plant.name], measure(trials, plant, config, plant.name))


def judge_plant(plant: Defect, without: Sequence[float], measured: Sequence[float]) -> Verdict:
    field, mode, numbers = plant.planted
    if field == "Bench":
        wanted, now = float(numbers[0]), measured[0] - without[0]
        text = f"{mode}: {now:+} instructions, planted {numbers[0]}"
    else:
        vcpus, lock = numbers
        wanted = 100 * min(1, (1e6 / without[0] + lock) / (vcpus * lock))
        now, before = (100 * rates[1] / rates[0] / vcpus for rates in (measured, without))
        text = (f"{mode}: {now:.0f} % efficiency at {vcpus} vCPUs, {before:.0f} % without; a lock "
                f"of {lock} instructions, expected {wanted:.0f} %")
    return abs(now - wanted) <= TOLERANCE[field] * wanted, text


# --- spoiled patches ---

def spoil(tree: pathlib.Path, patches: Sequence[pathlib.Path], spoiled: Defect) -> str:
    """The text of the patch with the diff folded in.  In the tree, only the index changes."""
    number, new = spoiled.moved[0], tree.resolve() / ".git" / "spoiled.diff"
    commits = git(tree, "rev-list", "--reverse", "origin/base..HEAD").split()
    if len(commits) != len(patches):
        raise BadInput(f"{tree} has {len(commits)} commits, not {len(patches)} patches; remove it")
    try:
        git(tree, "read-tree", "-m", commits[number - 1])
        git(tree, "apply", "--cached", "--whitespace=nowarn", "-", input=spoiled.diff)
        git(tree, "diff", "--cached", f"--output={new}", f"{commits[number - 1]}~")
    finally:
        git(tree, "reset", "-q")  # the files stay as they are, for kbuild
    head, _, _ = patches[number - 1].read_text().partition(DIFF)
    return f"{head}\n{new.read_text()}-- \n2.39\n\n"


def make_series(spoiled: Defect, base: base_.Base, tree: pathlib.Path, there: pathlib.Path) -> None:
    """A directory with the spoiled series."""
    shutil.rmtree(there, ignore_errors=True)
    shutil.copytree(base.directory, there, ignore=lambda *_: [path.name for path in base.patches])
    old, new = spoiled.moved
    order = base.patches
    order.insert(new - 1, order.pop(old - 1))
    for number, path in enumerate(order, 1):
        text = path.read_text()
        if number == new and spoiled.diff:
            text = spoil(tree, base.patches, spoiled)
        (there / f"{number:04}-{path.name[5:]}").write_text(text)


def revision_config(config: Config, spoiled: Defect, there: pathlib.Path) -> Config:
    """The patch and its neighbours, or the whole; costs against the series as it is."""
    tool, _, _, patch = spoiled.finds
    last = patch + (spoiled.moved[0] != spoiled.moved[1])
    # None of its results is a verdict on the series.
    return dataclasses.replace(
        config, mutants=(), revision=str(there), results=f"{there}.results",
        patches=f"{patch}-{last}" if patch else "",
        against=str(config.base_facts.directory) if tool == "cost" else "")


def try_spoiled(trials: Trials, spoiled: Defect, config: Config, _: None) -> Verdict:
    there = trials.run.directory.resolve() / spoiled.name
    make_series(spoiled, config.base_facts, trials.tree, there)
    try:
        with open(f"{there}.log", "w") as log, contextlib.redirect_stdout(log):
            directory, document = revision_.revision(revision_config(config, spoiled, there))
    except BadInput as error:
        raise BadInput(f"make revision has not come to an end, see {there}.log: {error}") from None
    files.write_json(directory / "revision.json", document)
    # Ctrl-C ends all trials: revision() returns what it has, and may have set watch.STOP, with
    # which no later guest would run.
    if document["verdict"] == Status.INTERRUPTED.word:
        raise KeyboardInterrupt
    return judge_spoiled(spoiled, config.arch[0], document)


def judge_spoiled(spoiled: Defect, arch: str, document: dict[str, Any]) -> Verdict:
    """Whether what was spoiled is what was found first."""
    checks = [Check(Status.of(row["status"]), row["summary"], patch=row["patch"],
                    arch=row["arch"], tool=row["tool"]) for row in document["checks"]]
    found = check_.findings(checks)
    if not found:
        return False, "nothing"
    first, (tool, status, words, patch) = found[0], spoiled.finds
    seen = (first.patch == patch and first.arch in ("", arch) and first.tool.startswith(tool)
            and first.status.word == status and words in first.summary)
    place = check_.place(first, len(document["patches"]))
    return seen, f"{first.status.word.upper()} {place}: {first.summary.splitlines()[0]}"


TESTS = Kind(
    "tests", "mutants", "Killed-by: and a diff", lambda d: d.killers and d.diff, "killed",
    "SURVIVED", "{name:<36} {where:<15} {verdict:<9} {text}", try_mutant, fail_without, killers_of,
    each_arch=True)
BENCH = Kind(
    "bench", "plants", "Bench: MODE N or Scale: MODE N L, and a diff",
    lambda d: d.planted and d.diff, "seen", "NOT SEEN",
    "{name:<20} {where:<6} {verdict:<9} {text}", try_plant, measure_without)
REVISION = Kind(
    "revision", "spoiled", "Patch:, Finds: tool | status | words, and a diff or Before:; "
    "Of:, if given, is \"the whole\"", lambda d: d.finds and bool(d.diff) != ("Before" in d.fields),
    "found", "NOT FOUND", "{name:<16} {where:<6} {verdict:<10} {text}", try_spoiled)


# --- tables ---

def key(row: Row) -> tuple[str, str]:
    """Name and architecture."""
    return row["name"], row["where"].partition("/")[0]


def line(kind: Kind, row: Row) -> str:
    return kind.line.format(**row) + (f" (on {row['on']})" if "on" in row else "")


def earlier(path: pathlib.Path, release: str) -> list[Row]:
    """The rows of the table that is there.  One of another series says so."""
    table = files.read_json(path) if path.exists() else {"release": release, "rows": []}
    when = {} if table["release"] == release else {"on": table["release"]}
    return [{**when, **row} for row in table["rows"]]


def render(kind: Kind, table: dict[str, Any]) -> str:
    return files.render(TEMPLATE, what=kind.what, line=functools.partial(line, kind), **table)


def save(trials: Trials, kind: Kind, arch: Arch, new: list[Row]) -> None:
    """The table of the run; with all defects in it, it is the one to commit as well."""
    config, committed = trials.config, trials.config.base_facts.results
    defects = load(kind, config.base)
    name = f"{kind.what}-{arch.name}" if kind.each_arch else kind.what
    wanted = {(d.name, a) for d in defects for a in d.archs if a == arch.name or not kind.each_arch}
    release = images.image(config, arch).release
    rows = {key(row): row for row in [*earlier(committed / f"{name}.json", release), *new]
            if key(row) in wanted}
    table = {"release": release, "rows": [rows[place] for place in sorted(rows)]}
    if kind.each_arch:
        table["unnamed"] = unnamed_cases(config, arch, defects)
    text = render(kind, table)
    for directory in [trials.run.directory, *([committed] if set(rows) == wanted else [])]:
        directory.mkdir(exist_ok=True)
        files.write_json(directory / f"{name}.json", table)
        (directory / f"{name}.txt").write_text(text)
    head, _, *unnamed = text.split("\n\n")  # the rows were printed
    print("\n\n".join([head, *unnamed]).rstrip(), flush=True)


# --- the engine ---

def prepare(config: Config) -> None:
    """The series in a tree of its own; and its programs, which another make may replace."""
    place = config.out / "mutant"
    images.apply(config, config.base_facts.directory, "patched", place / "linux")
    with images.booting(config):
        for arch in config.archs:
            shutil.copy(images.initramfs(config, arch), place / f"{arch.name}.cpio")


def try_all(trials: Trials, kind: Kind, mine: list[Trial]) -> Iterator[Row]:
    without = kind.without(trials, mine)
    for number, (defect, config) in enumerate(mine, 1):
        start = time.monotonic()
        try:
            noticed, text = kind.attempt(trials, defect, config, without)
            verdict = kind.good if noticed else kind.bad
        except BadInput as error:
            verdict, text = NOT_TRIED, str(error)
        row = {"name": defect.name, "where": where(config), "verdict": verdict, "text": text}
        print(f"  {number}/{len(mine)} {time.monotonic() - start:3.0f} s  {line(kind, row)}",
              flush=True)
        yield row


def check(config: Config, kind: Kind) -> int:
    """0 if all were noticed, 1 if one was not, 2 if one could not be tried."""
    config = dataclasses.replace(config, series="patched")
    todo = plan(config, kind)
    for arch, mine in todo:
        print(f"  {arch.name:<14} {len(mine)} {kind.what}", flush=True)
    images.build(config)
    rows: list[Row] = []
    with images.alone(config.out / "mutants.lock", f"tries mutants in {config.out}"):
        prepare(config)
        trials = Trials(config, kind.what)
        try:
            for arch, mine in todo:
                if mine:
                    rows += try_all(trials, kind, mine)
                    save(trials, kind, arch, rows)
        finally:
            git(trials.tree, "reset", "-q", "--hard")
    verdicts = {row["verdict"] for row in rows}
    return 2 if NOT_TRIED in verdicts else int(verdicts != {kind.good})


check_mutants = functools.partial(check, kind=TESTS)
check_bench = functools.partial(check, kind=BENCH)
check_revision = functools.partial(check, kind=REVISION)
