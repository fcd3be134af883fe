# SPDX-License-Identifier: GPL-2.0
"""A revision taken apart: a state after each patch, built and booted once.

A state has a place: 0 is the base, N is after patch N, "against" is the end of the earlier
revision.  All are built in one tree, under one name: an image differs only if the code does.
"""
import concurrent.futures
import dataclasses
import fnmatch
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ci import config as config_
from ci.boot import request as request_
from ci.boot import watch
from ci.boot.request import Request
from ci.build import config_check, images, progress
from ci.build.cache import Cache
from ci.build.files import read_json, sha256
from ci.build.git import git
from ci.config import Config
from ci.facts import cases
from ci.facts.arch import Arch
from ci.facts.text import ROOT, BadInput
from ci.judge import results
from ci.judge.check import Check, Status
from ci.judge.results import Boot, Run
from ci.judge.verdict import SERIES_IS_MISSING
from ci.measure import faults, scaling
from ci.revision.series import Series

# After each patch the first mode is booted, without these cases, which take minutes of random
# length.  At the end they run in each mode.
AT_THE_END = "dirty_log*"
# What guest.mk calls a tree and images, as SERIES
NAME = "revision"
# The parts of the tree that upstream's tests are built from
TESTS = ("tools/testing/selftests/", "tools/include/", "tools/arch/", "include/uapi/")
# What kernel-patches/apply says of a series; all else is the machine's fault.
OF_THE_SERIES = re.compile(r"does not apply to|CRLF|truncated|corrupt|is called NNNN"
                           r"|holds \d+ patches")
# A line of git range-diff
MOVED = re.compile(r"\s*(?:\d+|-):\s+\S+ (?P<mark>[=!<>]) \s*(?P<new>\d+|-):\s+\S+ (?P<subject>.*)")
WORDS = {"=": "same", "!": "changed", ">": "new", "<": "dropped"}
# Of a boot that is compared with another: both timed parts are measured alike.
QUANTA = (scaling.QUANTA[0],) * len(scaling.QUANTA)
Move = tuple[int | None, str, str]   # number now or None, word, subject
Place = int | str
Key = tuple[Arch, Place, str, str]   # mode ("": the first), configuration


class NotApplied(BadInput):
    """git am refused: @knob has the series, @number is the patch's, or 0."""

    def __init__(self, knob: str, said: str):
        super().__init__(said)
        match = re.search(r"/(\d{4})-[^/\s]*\.patch", said)
        self.knob, self.number = knob, int(match[1]) if match else 0


class NotBuilt(Exception):
    """A state does not build: the first error."""


@dataclasses.dataclass(frozen=True)
class State:
    problem: str = ""                # why there is no boot
    log: str = ""
    request: Request | None = None
    images: tuple[str, ...] = ()     # hashes of kernel and initramfs
    boot: Boot | None = None

    @property
    def check(self) -> Check:
        """That it does not build."""
        return Check(Status.FAIL, self.problem, where=self.log)


class Tree:
    """The git tree in which all states are built."""

    def __init__(self, config: Config, series: Series, against: Series | None = None):
        self.config, self.path = config, config.out / NAME / "linux"
        self.places: dict[Place, str] = {0: "origin/base"}
        earlier = self.apply(against, "AGAINST")[-1:] if against else []
        self.commits = self.apply(series, "REVISION")
        self.base = git(self.path, "rev-parse", "origin/base")
        self.places |= {0: self.base, **dict(enumerate(self.commits, 1))}
        self.places |= {"against": commit for commit in earlier}

    def apply(self, series: Series, knob: str) -> list[str]:
        """The commits, one a patch."""
        print(f"  applying {len(series.patches)} patches of {series.where}", flush=True)
        if self.path.exists():  # where an earlier run has left it
            self.go_to(0)
            git(self.path, "clean", "-fdq")
        try:
            images.apply(self.config, series.directory, "patched", self.path)
        except BadInput as error:
            raise NotApplied(knob, str(error)) if OF_THE_SERIES.search(str(error)) else error
        (self.path / ".git" / "applied").write_text("nothing\n")  # each run applies anew
        git(self.path, "update-ref", f"refs/kept/{knob}", "HEAD")
        return git(self.path, "rev-list", "--reverse", "origin/base..HEAD").split()

    def go_to(self, place: Place) -> None:
        git(self.path, "checkout", "-q", "-f", "--detach", self.places[place])
        # ci/build/images.py: this is nobody's work
        head = git(self.path, "rev-parse", "HEAD")
        (self.path / ".git" / "applied.head").write_text(f"{head}\n")

    def identity(self, place: Place, *paths: str) -> str:
        """By content: all of the tree, or some paths."""
        commit = self.places[place]
        return (git(self.path, "ls-tree", commit, *paths) if paths
                else git(self.path, "rev-parse", f"{commit}^{{tree}}"))

    def moved(self) -> list[Move]:
        """How the patches have changed since AGAINST=."""
        if "against" not in self.places:
            return []
        said = git(self.path, "range-diff", "--no-color", "--no-patch",
                   f"origin/base..{self.places['against']}", f"origin/base..{self.commits[-1]}")
        found = []
        for line in said.splitlines():
            match = MOVED.fullmatch(line)
            if not match:
                raise BadInput(f"not a line of git range-diff: {line}")
            number = None if match["new"] == "-" else int(match["new"])
            found.append((number, WORDS[match["mark"]], match["subject"]))
        return found


class Builder:
    """The images of states, kept by content."""

    def __init__(self, config: Config, tree: Tree, cache: Cache):
        self.config, self.tree, self.cache = config, tree, cache

    def make(self, config: Config, arch: Arch, log: pathlib.Path, target: pathlib.Path | str,
             environment: dict[str, str] | None = None, **variables: str) -> None:
        command = images.guest_make(config, arch, target, SERIES=NAME, SERIES_ID="each",
                                    **variables)
        with open(log, "ab") as stream:
            status = progress.call(command, stream, env=config_.environment(**environment or {}))
        if status:
            raise NotBuilt(first_error(log))

    def rules(self, config: Config, arch: Arch) -> list[Any]:
        """What an image depends on besides the code."""
        tools = images.toolchain(config, arch)
        makefiles = [ROOT / "guest-images" / name for name in ("guest.mk", f"{arch.name}.mk")]
        return [arch.name, config.config, tools.version, tools.linker, list(tools.variables),
                *map(sha256, [*makefiles, *tools.fragments])]

    def once(self, kind: str, inputs: object, what: str,
             build: Callable[[], Iterable[pathlib.Path]]) -> pathlib.Path:
        """The directory with the files that build() makes, if it is not there yet."""
        kept = self.cache.files(kind, inputs)
        if kept:
            return kept
        print(f"    {what}", flush=True)
        with tempfile.TemporaryDirectory() as stage:
            for path in build():
                shutil.copy(path, stage)
            return self.cache.keep_files(kind, inputs, pathlib.Path(stage))

    def kernel(self, arch: Arch, place: Place, name: str, log: pathlib.Path) -> pathlib.Path:
        """With .config, .release, .map and .compiler beside it."""
        config = dataclasses.replace(self.config, config=name)
        built = images.image(config, arch, self.config.out / NAME)

        def build() -> Iterable[pathlib.Path]:
            self.tree.go_to(place)
            self.make(config, arch, log, "configuration")
            try:
                config_check.check(built.config, images.toolchain(config, arch).fragments)
            except BadInput as error:
                raise NotBuilt(str(error)) from None
            self.make(config, arch, log, "kernel")
            files = built.kernel.parent.glob(f"{built.kernel.stem}.*")
            return filter(pathlib.Path.is_file, files)
        inputs = [self.tree.identity(place), self.rules(config, arch)]
        what = f"{arch.name} {name} kernel of {place}"
        return self.once("kernels", inputs, what, build) / built.kernel.name

    def programs(self, arch: Arch, place: Place, log: pathlib.Path) -> pathlib.Path:
        """The initramfs: our programs, and upstream's tests as this state has them."""
        ours = images.initramfs(self.config, arch)
        new = self.config.out / f"programs-{NAME}" / arch.name / ours.name

        def build() -> Iterable[pathlib.Path]:
            self.tests(arch, place, log, new)
            return [new]
        theirs = self.tree.identity(place, *TESTS, f"arch/{arch.kernel_arch}/include/uapi/")
        inputs = [theirs, self.rules(self.config, arch), sha256(ours)]
        return self.once("initramfs", inputs, f"{arch.name} tests of {place}", build) / ours.name

    def tests(self, arch: Arch, place: Place, log: pathlib.Path, target: pathlib.Path | str,
              **environment: str) -> None:
        """Build upstream's tests of a state, all of them anew."""
        shutil.rmtree(self.config.out / f"programs-{NAME}" / arch.name, ignore_errors=True)
        self.tree.go_to(place)
        ours = images.initramfs(self.config, arch).parent / "bin"
        self.make(self.config, arch, log, target, environment, TOOLS=NAME, OURS=str(ours))


class States:
    """What there is at each place: built, and booted once for the same images."""

    def __init__(self, config: Config, run: Run, tree: Tree):
        self.config, self.run, self.tree = config, run, tree
        self.cache = Cache(pathlib.Path(config.cache) / "revision")
        self.builder = Builder(config, tree, self.cache)
        self.known: dict[Key, State] = {}
        self.booted: dict[object, Boot] = {}

    def state(self, arch: Arch, place: Place, mode: str = "", config: str = "") -> State:
        self.prepare([(arch, place, mode, config)])
        return self.known[arch, place, mode, config]

    def before(self, arch: Arch, number: int) -> State:
        """The last state before a patch that booted."""
        states = (self.state(arch, n) for n in range(number - 1, -1, -1))
        return next(state for state in states if state.boot)

    def prepare(self, wanted: Iterable[Key]) -> None:
        """Build all of these, then boot them, several at a time if they can."""
        built = {key: self.build(*key) for key in wanted if key not in self.known}
        bootable = {key: (key[0], *key[2:], state.images) for key, state in built.items()}
        waiting: dict[object, tuple[Request, str]] = {}
        for key, state in built.items():
            if state.request and bootable[key] not in self.booted:
                waiting.setdefault(bootable[key], (state.request, label(*key)))
        # A guest on several threads takes many times as long if it can't have a CPU for each.
        for alone in (False, True):
            mine = [what for what, (request, _) in waiting.items()
                    if alone == (request.mode.threads != "single" or request.accel != "tcg")]
            boots = at_once(lambda what: self.boot(*waiting[what]), mine,
                            1 if alone else os.cpu_count() or 1)
            self.booted.update(zip(mine, boots))
        for key, state in built.items():
            self.known[key] = dataclasses.replace(state, boot=self.booted.get(bootable[key]))

    def build(self, arch: Arch, place: Place, mode: str, config: str) -> State:
        """All but the boot, or what does not build."""
        log = self.run.directory / f"{label(arch, place, mode, config)}.build.log"
        what = "the kernel does"
        try:
            kernel = self.builder.kernel(arch, place, config, log)
            what = "upstream's tests do"
            initramfs = self.builder.programs(arch, place, log)
        except NotBuilt as error:
            return State(f"{what} not build: {error}", str(log))
        chosen = [] if mode else cases.select(cases.FILES["tests"], arch.name, arch.modes[0].name,
                                              self.config.base_facts)
        names = [c.name for c in chosen if not fnmatch.fnmatchcase(c.name, AT_THE_END)]
        request = self.request(arch, kernel, initramfs, "tests", names, mode, config)
        return State("", "", request, (sha256(kernel), sha256(initramfs)))

    def request(self, arch: Arch, kernel: pathlib.Path, initramfs: pathlib.Path, kind: str,
                names: Sequence[str], mode: str = "", config: str = "") -> Request:
        knobs = dataclasses.replace(self.config, arch=(arch.name,), config=config,
                                    mode=(mode or arch.modes[0].name,), cases=tuple(names))
        request, = request_.requests(knobs, kind, icount=kind == "bench", images=kernel.parent)
        return dataclasses.replace(request, initramfs=initramfs)

    def boot(self, request: Request, label: str, again: int = 0, keep: bool = True) -> Boot:
        """What went well is kept by content, and judged anew."""
        inputs = request_.identity(request, again)
        kept = self.cache.files("boots", inputs) if keep else None
        if kept:
            boot = results.read_boot(request, kept, read_json(kept / "meta.json"))
            boot = judged(self.run.judge(request, kept, boot.outcome))
            if all(map(settled, boot.findings)):
                return boot
        names = [label, *(f"{label}-{n}" for n in range(2, 100))]
        fresh = next(path for name in names if not (path := self.run.directory / name).exists())
        boot = judged(self.run.trial(request, fresh))
        if keep and all(map(settled, boot.findings)):
            boot.meta.update(inputs)
            results.save_verdict(boot)
            boot.directory = self.cache.keep_files("boots", inputs, boot.directory)
        return boot

    def once_more(self, arch: Arch, place: int) -> Boot:
        """Another boot of a state, whatever is known."""
        request = self.state(arch, place).request
        assert request
        return self.boot(request, f"{label(arch, place)}-again", keep=False)

    def measured(self, arch: Arch, place: Place, kind: str, names: Sequence[str], vcpus: int = 0,
                 again: int = 0) -> Request:
        """A boot of make bench or make scale: of these cases, those that this state has."""
        booted = self.state(arch, place).request
        if not booted:
            raise BadInput(f"{place}: {self.state(arch, place).problem}")
        there = [case.name for case in cases.load(cases.FILES[kind])
                 if case.name in names and (place != 0 or case.needs == "-")]
        request = self.request(arch, booted.kernel, booted.initramfs, kind, there)
        if kind == "scale":
            return scaling.with_lockstep(request, vcpus, again, quanta=QUANTA)
        # Another boot has other random numbers, and has to come to the same.
        return dataclasses.replace(faults.with_timeline(request), seed=1 + again)

    def measure(self, arch: Arch, place: Place, kind: str, names: Sequence[str], vcpus: int = 0,
                again: int = 0) -> Boot:
        """Rates are kept by blocks: ci/revision/cost.py."""
        request = self.measured(arch, place, kind, names, vcpus, again)
        return self.boot(request, f"{place}-{request.directory}-{kind}-{again}", again,
                         keep=kind == "bench")


def under(boot: Boot, checks: Iterable[Check]) -> list[Check]:
    """With the directory that they are below."""
    return [dataclasses.replace(check, where=f"{boot.directory}/{check.where}") for check in checks]


def label(arch: Arch, place: Place, *more: str) -> str:
    where = f"{place:04}" if isinstance(place, int) else place
    return "-".join(filter(None, (where, arch.name, *more)))


def settled(check: Check) -> bool:
    """No statement against a kernel that may lack the series, or a part of it."""
    return (check.status == Status.KNOWN
            or check.status == Status.SKIP and SERIES_IS_MISSING in check.summary)


def judged(boot: Boot) -> Boot:
    """A boot that measures has to be usable as well: its problems become findings."""
    if boot.request.kind == "bench":
        faults.measure(boot)
        faults.read_timelines(boot)
    elif boot.request.kind == "scale":
        scaling.points_of(boot)
    return boot


def first_error(log: pathlib.Path) -> str:
    """The line that says most in the log of a build."""
    lines = log.read_text(errors="replace").splitlines()
    return next((line.strip() for line in lines if progress.ERROR.search(line)), "see the log")


def at_once(function: Callable[[Any], Any], values: Iterable[Any], most: int) -> list[Any]:
    """[function(value)], so many at once; ctrl-C ends all."""
    with concurrent.futures.ThreadPoolExecutor(most) as pool:
        try:
            return list(pool.map(function, values))   # One that fails cancels those that wait.
        except BaseException:
            watch.STOP.set()
            raise
