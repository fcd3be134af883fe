# SPDX-License-Identifier: GPL-2.0
"""Break the series in known ways, and see whether that is noticed.

kernel-patches/README.md has the format of a defect.  There are three kinds: mutants, which
cases must notice; plants, known costs that the benchmarks must find; and spoiled patches, which
must be the first finding of make revision.
"""
import collections
import contextlib
import dataclasses
import fnmatch
import operator
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ci import config as config_
from ci.boot import request as request_
from ci.build import images, progress
from ci.build.files import read_json, write_json
from ci.build.git import git
from ci.config import Config
from ci.facts import base as base_
from ci.facts import cases as cases_
from ci.facts.arch import Arch
from ci.facts.text import BadInput
from ci.judge import check as check_
from ci.judge.check import Check, Status
from ci.judge.results import DISK_IS_FULL, Boot, Run
from ci.measure import faults, scaling
from ci.revision import judge as revision_

DEFECTS = base_.PATCHES / "defects"
SECTION = re.compile(r"^Base: (\S+)\n", re.MULTILINE)
FIELD = re.compile(r"^([A-Z][a-z]+(?:-by)?): (.*)$", re.MULTILINE)
DIFF = "\ndiff --git "
CASES = cases_.FILES["tests"]
KILLS = (Status.FAIL, Status.TIMEOUT, Status.SPLAT, Status.LOST, Status.SKIP)
# Not scaled.  A case takes a second or two, upstream's demand_paging_test on arm64 eight,
# which the series without a mutant has to show under the same limit; one that a mutant has
# hanging takes this long.  With a configuration of its own, which is slower, the cases' own
# limits hold.
CASE_SECONDS = 15
TOLERANCE = {"Bench": 0.02, "Scale": 0.15}
NOT_TRIED = "ERROR"

Row = dict[str, str]
Setting = tuple[str, str]          # mode and configuration: what is booted, the kernel aside
Verdict = tuple[bool | None, str]  # whether it was noticed (None: not tried), and how


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

    def setting(self, arch: Arch) -> Setting:
        return self.fields.get("Mode") or arch.modes[0].name, self.fields.get("Config", "")

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


class Trials:
    """A run, and a tree of its own: the series, with one defect at a time."""

    def __init__(self, config: Config, what: str):
        self.config, self.place = config, config.out / "mutant"
        self.tree = self.place / "linux"
        self.run = Run(config, what)

    def build(self, arch: Arch, defect: Defect | None, label: str, name: str = "") -> str:
        """One kernel, of CONFIG=@name: what went wrong, or "", as it has to be without a defect."""
        log = self.run.directory / f"{label}.build.log"
        config = dataclasses.replace(self.config, config=name)
        git(self.tree, "reset", "-q", "--hard")
        try:
            if defect:
                git(self.tree, "apply", "-", input=defect.diff)
        except BadInput as error:
            return str(error)
        image = images.image(config, arch, self.place)
        command = images.guest_make(config, arch, image.kernel, SERIES="mutant")
        with open(log, "wb") as stream:
            status = progress.call(command, stream, env=config_.environment())
        if status and not defect:
            raise BadInput(f"the series without a defect does not build, see {log}")
        return f"does not build, see {log}" if status else ""

    def request(self, arch: Arch, kind: str, icount: bool = False,
                **knobs: Any) -> request_.Request:
        config, place = dataclasses.replace(self.config, arch=(arch.name,), **knobs), self.place
        request, = request_.requests(config, kind, True, icount, images=place.resolve())
        return dataclasses.replace(request, initramfs=place.resolve() / f"{arch.name}.cpio")

    def boot(self, request: request_.Request, label: str) -> Boot:
        return self.run.trial(request, self.run.directory / label)


@dataclasses.dataclass(frozen=True)
class Kind:
    """How the files of a directory of kernel-patches/defects/ are read, tried and reported."""
    directory: str
    what: str       # name of its defects, and of its table
    want: str       # of a file, for the refusal
    fits: Callable[[Defect], Any]
    tried: Callable[[Trials, Arch, list[Defect]], Iterator[Verdict]]
    head: str       # of the table
    good: str       # verdicts
    bad: str
    widths: tuple[int, int, int]
    order: tuple[str, ...] = ("name",)
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
    raise BadInput(f"{path}: want what is wrong, Arch:, {kind.want}")


def load(kind: Kind, base: str, patterns: Sequence[str] = ()) -> list[Defect]:
    """Those for a base whose names match one of the shell patterns."""
    found = [read(path, base, kind) for path in sorted((DEFECTS / kind.directory).glob("*.patch"))]
    chosen = [defect for defect in found if defect and (
        not patterns or any(fnmatch.fnmatchcase(defect.name, p) for p in patterns))]
    if not chosen:
        raise BadInput(f"nothing in kernel-patches/defects/{kind.directory} is for BASE={base}"
                       + (f" and matches MUTANTS={' '.join(patterns)}" if patterns else ""))
    return chosen


def plan(config: Config, kind: Kind) -> list[tuple[Arch, list[Defect]]]:
    """The defects for each architecture; BadInput if there is none, or one cannot be tried."""
    defects = load(kind, config.base, config.mutants)
    found = [(arch, [d for d in defects if arch.name in d.archs]) for arch in config.archs]
    idle = [arch.name for arch, mine in found if not mine]
    if len(idle) == len(found) or (idle and kind.each_arch):
        raise BadInput(f"MUTANTS={' '.join(config.mutants)}: none of them is for "
                       f"{' '.join(idle)}; say ARCH= as well")
    for arch, mine in found if kind is TESTS else ():
        for mutant in mine:
            check_mutant(config, mutant, arch)
    return found


# --- mutants ---

def killers_in(config: Config, arch: Arch, setting: Setting, killers: Sequence[str]) -> list[str]:
    """Those that the mode and the configuration have, in the order in which they run."""
    return [case.name for case in cases_.select(CASES, arch.name, setting[0], config.base_facts,
                                                killers, setting[1])]


def check_mutant(config: Config, mutant: Defect, arch: Arch) -> None:
    setting = mutant.setting(arch)
    unknown = set(mutant.killers) - {case.name for case in cases_.load(CASES)}
    try:
        if unknown:
            raise BadInput(f"no such case: {' '.join(sorted(unknown))}")
        arch.mode(setting[0])
        dataclasses.replace(config, config=setting[1])
        if not killers_in(config, arch, setting, mutant.killers):
            raise BadInput(f"{arch.name}/{'/'.join(filter(None, setting))} has none of the cases "
                           "in Killed-by:")
    except BadInput as error:
        raise BadInput(f"{mutant.path}: {error}") from None


def boot_cases(trials: Trials, arch: Arch, setting: Setting, names: Sequence[str],
               label: str) -> Boot:
    request = trials.request(arch, "tests", mode=setting[:1], config=setting[1],
                             cases=tuple(names), timeout=0 if setting[1] else CASE_SECONDS)
    return trials.boot(request, label)


def fail_without(trials: Trials, arch: Arch, setting: Setting,
                 mutants: list[Defect]) -> dict[str, str]:
    """{case: what is wrong with it} of the killers that fail without any mutant."""
    label = "-".join(filter(None, (arch.name, *setting)))
    trials.build(arch, None, label, setting[1])
    killers = {k for m in mutants if m.setting(arch) == setting for k in m.killers}
    names = killers_in(trials.config, arch, setting, sorted(killers))
    boot = boot_cases(trials, arch, setting, names, f"{label}-without")
    if any(not finding.case for finding in boot.findings):
        raise BadInput(f"the series without a mutant, {label}: {boot.findings[0].summary}")
    wrong = {finding.case: finding.summary for finding in boot.findings}
    print(f"  {label}: {len(names) - len(wrong)} of {len(names)} cases pass without a mutant",
          flush=True)
    return wrong


def try_mutants(trials: Trials, arch: Arch, mutants: list[Defect]) -> Iterator[Verdict]:
    settings = sorted({mutant.setting(arch) for mutant in mutants})
    wrong = {setting: fail_without(trials, arch, setting, mutants) for setting in settings}
    for mutant in mutants:
        setting, label = mutant.setting(arch), f"{arch.name}-{mutant.name}"
        killers = killers_in(trials.config, arch, setting, mutant.killers)
        unfit = [f"{k} fails without a mutant: {wrong[setting][k]}"
                 for k in killers if k in wrong[setting]]
        trouble = "; ".join(unfit) or trials.build(arch, mutant, label, setting[1])
        yield (None, trouble) if trouble else judge_mutant(
            boot_cases(trials, arch, setting, killers, label), killers)


def judge_mutant(boot: Boot, killers: Sequence[str]) -> Verdict:
    how = {f.case: f.status for f in boot.findings if f.status in KILLS and f.case}
    lost = any(f.status in (Status.LOST, Status.TIMEOUT) and "tests.ktap" not in f.where
               for f in boot.findings)
    trouble = [f.summary for f in boot.findings if f.summary == DISK_IS_FULL or
               f.status == Status.HARNESS and not lost]
    if boot.outcome.how == "killed" or not boot.outcome.stream.plan:
        trouble += [f.summary for f in boot.findings] or ["the machine did not come up"]
    if trouble:
        return None, "; ".join(trouble)
    heard = {result.name for result in boot.outcome.stream.results}
    missed = [k for k in killers if k not in how and not (lost and k not in heard)]
    noticed = [k if how[k] == Status.FAIL else f"{k}:{how[k].word}" for k in killers if k in how]
    if missed or not noticed:
        return False, "not noticed by " + " ".join(missed or killers)
    rest = "" if len(noticed) == len(killers) else " (and the machine is lost)"
    return True, "by " + " ".join(noticed) + rest


def unnamed_cases(config: Config, arch: Arch, mutants: Iterable[Defect]) -> list[str]:
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


def measure(trials: Trials, arch: Arch, plant: Defect, label: str) -> list[float]:
    """Instructions of a fault; or the rates with one vCPU and with the plant's number.

    The median of single faults: the price of a batch has ticks in it.
    """
    field, mode, (vcpus, *_) = plant.planted
    if field == "Bench":
        request = faults.with_timeline(trials.request(arch, "bench", True, cases=(mode,)))
        timelines = boot_and_read(trials, request, label, faults.read_timelines)
        return [timelines[mode].distribution()[1]]
    request = trials.request(arch, "scale", cases=(mode,))
    points = [point for n in (1, vcpus) for point in boot_and_read(
        trials, scaling.with_lockstep(request, n), label, scaling.points_of)]
    rates = {p.vcpus: p.rate for p in points if p.quantum == scaling.QUANTA[0]}
    return [rates[1], rates[vcpus]]


def try_plants(trials: Trials, arch: Arch, plants: list[Defect]) -> Iterator[Verdict]:
    trials.build(arch, None, arch.name)
    without = [measure(trials, arch, plant, f"without-{plant.name}") for plant in plants]
    for plant, before in zip(plants, without):
        trouble = trials.build(arch, plant, f"{arch.name}-{plant.name}")
        yield (None, trouble) if trouble else judge_plant(
            plant, before, measure(trials, arch, plant, plant.name))


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
                f"of {lock} instructions leaves {wanted:.0f} %")
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


def revision_config(config: Config, spoiled: Defect, arch: str, there: pathlib.Path) -> Config:
    """The patch and its neighbours, or the whole; costs against the series as it is."""
    tool, _, _, patch = spoiled.finds
    last = patch + (spoiled.moved[0] != spoiled.moved[1])
    # None of its results is a verdict on the series.
    return dataclasses.replace(
        config, arch=(arch,), mutants=(), revision=str(there), results=f"{there}.results",
        patches=f"{patch}-{last}" if patch else "",
        against=str(config.base_facts.directory) if tool == "cost" else "")


def try_spoiled(trials: Trials, arch: Arch, mine: list[Defect]) -> Iterator[Verdict]:
    for spoiled in mine:
        there = trials.run.directory.resolve() / spoiled.name
        make_series(spoiled, trials.config.base_facts, trials.tree, there)
        config = revision_config(trials.config, spoiled, arch.name, there)
        try:
            with open(f"{there}.log", "w") as log, contextlib.redirect_stdout(log):
                directory, document = revision_.revision(config)
            write_json(directory / "revision.json", document)
        except BadInput as error:
            raise BadInput(f"{spoiled.name}: make revision has not come to an end, see "
                           f"{there}.log: {error}") from None
        yield judge_spoiled(spoiled, arch.name, document)


def judge_spoiled(spoiled: Defect, arch: str, document: dict[str, Any]) -> Verdict:
    """Whether what was spoiled is what was found first."""
    checks = [Check(Status.of(row["status"]), row["summary"], patch=row["patch"],
                    arch=row["arch"], tool=row["tool"]) for row in document["checks"]]
    found = check_.findings(checks)
    if not found:
        return False, "nothing"
    first, (tool, status, words, patch) = found[0], spoiled.finds
    if first.status == Status.INTERRUPTED:
        raise KeyboardInterrupt
    seen = (first.patch == patch and first.arch in ("", arch) and first.tool.startswith(tool)
            and first.status.word == status and words in first.summary)
    where = check_.place(first, len(document["patches"]))
    return seen, f"{first.status.word.upper()} {where}: {first.summary.splitlines()[0]}"


TESTS = Kind("tests", "mutants", "Killed-by: and a diff", lambda d: d.killers and d.diff,
             try_mutants, "{total} mutants of {release}: {good} killed, {bad} survived, {error} "
             "not tried", "killed", "SURVIVED", (36, 15, 9), each_arch=True)
BENCH = Kind("bench", "plants", "Bench: MODE N or Scale: MODE N L, and a diff",
             lambda d: d.planted and d.diff, try_plants, "plants in {release}", "seen",
             "NOT SEEN", (20, 6, 9), order=("where", "name"))
REVISION = Kind("revision", "spoiled", "Patch:, Finds: tool | status | words, and a diff or "
                "Before:; Of:, if given, is \"the whole\"",
                lambda d: d.finds and bool(d.diff) != ("Before" in d.fields), try_spoiled,
                "spoiled patches in {release}, and the first finding of make revision", "found",
                "NOT FOUND", (16, 6, 10))


# --- tables ---

def key(row: Row) -> tuple[str, str]:
    """Name and architecture."""
    return row["name"], row["where"].partition("/")[0]


def line(kind: Kind, row: Row) -> str:
    cells = [f"{row[name]:<{width}}" for name, width in zip(("name", "where", "verdict"),
                                                            kind.widths)]
    return " ".join([*cells, row["text"]]) + (f" (on {row['on']})" if "on" in row else "")


def earlier(path: pathlib.Path, release: str) -> list[Row]:
    """The rows of the table that is there.  One of another series says so."""
    table = read_json(path) if path.exists() else {"release": release, "rows": []}
    when = {} if table["release"] == release else {"on": table["release"]}
    return [{**when, **row} for row in table["rows"]]


def render(kind: Kind, table: dict[str, Any]) -> str:
    rows = table["rows"]
    count = collections.Counter(row["verdict"] for row in rows)
    older = sum("on" in row for row in rows)
    lines = [kind.head.format(release=table["release"], total=len(rows), good=count[kind.good],
                              bad=count[kind.bad], error=count[NOT_TRIED])]
    lines += [f"{older} of them on an earlier series, as they say"] if older else []
    lines += ["", *(line(kind, row) for row in rows)]
    if "unnamed" in table:
        lines += ["", "cases that no mutant names: " + (" ".join(table["unnamed"]) or "none")]
    return "\n".join(lines) + "\n"


def save(trials: Trials, kind: Kind, arch: Arch, new: list[Row]) -> None:
    """The table of the run; with all defects in it, it is the one to commit as well."""
    config, committed = trials.config, trials.config.base_facts.results
    defects = load(kind, config.base)
    name = f"{kind.what}-{arch.name}" if kind.each_arch else kind.what
    wanted = {(d.name, a) for d in defects for a in d.archs if a == arch.name or not kind.each_arch}
    release = images.image(config, arch).release
    rows = {key(row): row for row in [*earlier(committed / f"{name}.json", release), *new]
            if key(row) in wanted}
    table: dict[str, Any] = {"release": release,
                             "rows": sorted(rows.values(), key=operator.itemgetter(*kind.order))}
    if kind.each_arch:
        table["unnamed"] = unnamed_cases(config, arch, defects)
    places = [trials.run.directory, *([committed] if set(rows) == wanted else [])]
    for place in places:
        place.mkdir(exist_ok=True)
        write_json(place / f"{name}.json", table)
        (place / f"{name}.txt").write_text(render(kind, table))
    print("\n".join(text for text in render(kind, table).splitlines()
                    if text not in [line(kind, row) for row in rows.values()]), flush=True)


# --- the engine ---

def prepare(config: Config) -> None:
    """The series in a tree of its own; and its programs, which another make may replace."""
    place = config.out / "mutant"
    images.apply(config, config.base_facts.directory, "patched", place / "linux")
    with images.booting(config):
        for arch in config.archs:
            shutil.copy(images.initramfs(config, arch), place / f"{arch.name}.cpio")


def try_all(trials: Trials, kind: Kind, arch: Arch, mine: list[Defect]) -> Iterator[Row]:
    start, verdicts = time.monotonic(), {True: kind.good, False: kind.bad, None: NOT_TRIED}
    tried = zip(mine, kind.tried(trials, arch, mine))
    for number, (defect, (noticed, text)) in enumerate(tried, 1):
        setting = defect.setting(arch) if kind.each_arch else ()
        where = "/".join(filter(None, (arch.name, *setting)))
        row = {"name": defect.name, "where": where, "verdict": verdicts[noticed], "text": text}
        print(f"  {number}/{len(mine)} {time.monotonic() - start:3.0f} s  {line(kind, row)}",
              flush=True)
        start = time.monotonic()
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
                    rows += try_all(trials, kind, arch, mine)
                    save(trials, kind, arch, rows)
        finally:
            git(trials.tree, "reset", "-q", "--hard")
    verdicts = {row["verdict"] for row in rows}
    return 2 if NOT_TRIED in verdicts else int(verdicts != {kind.good})


def check_mutants(config: Config) -> int:
    return check(config, TESTS)


def check_bench(config: Config) -> int:
    return check(config, BENCH)


def check_revision(config: Config) -> int:
    return check(config, REVISION)
