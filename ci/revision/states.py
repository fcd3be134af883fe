# SPDX-License-Identifier: GPL-2.0
"""Where a revision is taken apart: one tree, a state of it after each patch, built and booted once.

A state is asked for by where it is: 0 is the base, N is after patch N, "against" is the
end of the earlier revision.  All are built in one tree, under one name, so that an image is
another one only if the code is.
"""
import concurrent.futures
import contextlib
import dataclasses
import fnmatch
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess

from ci.measure import faults as bench
from ci.facts import cases
from ci.boot import qemu as guest
from ci.revision import cost as perf
from ci.judge import results as run
from ci.measure import scaling as scale
from ci.revision import series as series_
from ci.revision import patchcheck as static
from ci.revision import stats
from ci.build import progress as step
from ci.facts.arch import ROOT, BadInput
from ci.build.git import git
from ci.build.cache import Store, digest
from ci.judge.verdict import SERIES_IS_MISSING, Verdict

# In place of a mode: the first one, with all cases but these, which take minutes and of random
# length.  At the end they run in each mode.
EACH_PATCH, AT_THE_END = "", "dirty_log*"
# What guest.mk calls it, as SERIES
NAME = "revision"
# The checks themselves are an input of what they say
MINE = run.sha256(pathlib.Path(static.__file__))
# What has to hold of a boot that measures, before it is kept
USABLE = {"bench": (bench.measure, bench.read_timelines), "scale": (scale.points_of,), "tests": ()}


# What kernel-patches/apply says of a series; all else is the machine's fault
OF_THE_SERIES = re.compile(r"does not apply to|CRLF|truncated|is called NNNN|holds \d+ patches")


class NotApplied(Exception):
    """git am refused: @name is the knob, @number the patch, or 0."""

    def __init__(self, name, said):
        super().__init__(said)
        match = re.search(r"/(\d{4})-[^/\s]*\.patch", said.strip().splitlines()[-1] if said.strip() else "")
        self.name, self.said, self.number = name, said, int(match[1]) if match else 0


def settled(finding):
    """No statement against a kernel that may lack the series, or a part of it."""
    return finding.verdict == Verdict.KNOWN or finding.verdict == Verdict.SKIP and SERIES_IS_MISSING in finding.text


@dataclasses.dataclass(frozen=True)
class State:
    images: tuple = ()      # hashes of kernel and initramfs
    boot: run.Boot = None
    kernel: pathlib.Path = None
    initramfs: pathlib.Path = None
    problem: str = ""       # why there is no boot
    log: str = ""


@dataclasses.dataclass(frozen=True)
class Images:
    hashes: tuple
    request: guest.Request
    label: str


def wants_all_cpus(request):
    """A guest on several threads takes many times as long if it can't have a CPU for each."""
    return request.mode.threads != "single" or request.accel != "tcg"


def at_once(function, values, most):
    """[function(value)], so many at once; ctrl-C ends all."""
    with concurrent.futures.ThreadPoolExecutor(most) as pool:
        futures = [pool.submit(function, value) for value in values]
        try:
            return [future.result() for future in futures]
        except BaseException:
            guest.STOP.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


class Workshop:
    def __init__(self, archs, this, series, against):
        self.this, self.archs, self.series, self.against = this, archs, series, against
        self.out = pathlib.Path(run.knob("OUT"))  # as make names its targets
        self.place, self.path = self.out / NAME, self.out / NAME / "linux"
        self.store = Store(pathlib.Path(run.knob("CACHE")) / "revision")
        self.compilers = {arch.name: run.first_line(f"{prefix(arch)}gcc", "--version") for arch in archs}
        self.states, self.booted = {}, {}
        self.measured_by = set()  # revisions of this repository
        self.earlier = self.apply(against, "AGAINST")[-1] if against else ""
        self.commits = self.apply(series, "OF")
        self.base = self.ask("rev-parse", "origin/base")

    # --- the tree ---

    def ask(self, *argv):
        return git(self.path, *argv)

    def apply(self, series, name):
        """[commit], one a patch."""
        print(f"  applying {len(series.patches)} patches of {series.where}", flush=True)
        if self.path.exists():  # where an earlier run has left it
            self.go_to(self.ask("rev-parse", "origin/base"))
            self.ask("clean", "-fdq")
        done = subprocess.run([str(ROOT / "kernel-patches" / "apply"), str(series.directory), "patched", run.knob("CACHE"), str(self.path)],
                              capture_output=True, text=True, check=False)
        if done.returncode and OF_THE_SERIES.search(done.stderr):
            raise NotApplied(name, done.stderr)
        if done.returncode:
            raise BadInput((done.stderr.strip().splitlines() or [f"kernel-patches/apply: status {done.returncode}"])[-1])
        (self.path / ".git" / "applied").write_text("nothing\n")  # each run applies anew
        commits = self.ask("rev-list", "--reverse", "origin/base..HEAD").split()
        self.ask("update-ref", f"refs/kept/{name}", "HEAD")
        return commits

    def go_to(self, commit):
        self.ask("checkout", "-q", "-f", "--detach", commit)
        # guest.mk: this is nobody's work
        (self.path / ".git" / "applied.head").write_text(self.ask("rev-parse", "HEAD") + "\n")

    def commit(self, where):
        return self.earlier if where == "against" else ([self.base] + self.commits)[where]

    def identity(self, where, *paths):
        """By content: all of the tree, or some paths."""
        return self.ask("ls-tree", self.commit(where), *paths) if paths else self.ask("rev-parse", f"{self.commit(where)}^{{tree}}")

    def moved(self):
        return series_.moved(self.path, self.earlier, self.commits[-1]) if self.against else []

    # --- without a boot ---

    def look_at(self, patch, number):
        """(tool, [(status, text)]) of all that needs no architecture."""
        scripts = self.identity(number, "scripts", "MAINTAINERS", ".get_maintainer.ignore")
        self.go_to(self.commit(number))
        for tool, function in static.OF_PATCH.items():
            yield tool, self.store.once("static", [tool, patch.text, scripts, MINE], lambda f=function: whole(f(self.path, patch)))
        unknown = static.foreign(patch.files, [arch.kernel_arch for arch in self.archs])
        if unknown:
            yield "other architectures", [("left", f"not compiled: {' '.join(unknown)}")]
        files = patch.files
        if any(name.endswith((".c", ".h")) for name in files):
            yield "kernel-doc", self.grown("kernel-doc", number, files, lambda: static.kernel_doc(self.path, files))
        if any(name.startswith("Documentation/") for name in files):
            yield "docs", self.grown("docs", number, files, lambda: static.documentation(self.path, files, self.place),
                                     [run.first_line("sphinx-build", "--version") if shutil.which("sphinx-build") else ""])

    def grown(self, tool, number, files, function, inputs=()):
        """[("fail", text)] of what a tool says after a patch and did not say before it."""
        def at(where):
            def ask():
                self.go_to(self.commit(where))
                return function()
            return self.store.once("warnings", [tool, self.identity(where), files, MINE, *inputs], ask)
        before, after = at(number - 1), at(number)
        if None in (before, after):
            return [("left", f"{tool} is not installed")]
        return [("fail", text) for text in static.grown(before["warnings"], after["warnings"])] + [
            ("left", f"{name} is not compiled in this configuration") for name in after["left"]]

    def compare_warnings(self, arch, patch, number):
        """(tool, [(status, text)]): W=1 and sparse over the files that the patch changes."""
        files = static.compiled_here(patch.files, arch.kernel_arch)
        if not files:
            return "", []
        extra = ["C=1"] if shutil.which("sparse") else []
        config = self.state(arch, number).kernel.with_suffix(".config").read_text()

        def ask():
            objects = self.path / f"out-{arch.name}-w1"
            objects.mkdir(exist_ok=True)
            (objects / ".config").write_text(config)
            return static.compile_again(self.path, objects.name, arch.kernel_arch, prefix(arch), files, extra)
        tool = "W=1, sparse" if extra else "W=1"
        version = run.first_line("sparse", "--version") if extra else ""
        return tool, self.grown(tool, number, files, ask, [arch.name, self.compilers[arch.name], digest(config), version])

    # --- built and booted ---

    def make(self, arch, log, target, **variables):
        """Have guest-images/guest.mk make one file."""
        command = [*shlex.split(run.knob("GUEST")), f"ARCH={arch.name}", *(f"{k}={v}" for k, v in variables.items()), str(target)]
        with open(log, "ab") as stream:
            return step.call(command, stream) == 0

    def keep(self, kind, inputs, files):
        stage = self.this.directory / "image"
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir()
        for path in files:
            shutil.copy(path, stage)
        kept = self.store.keep_files(kind, inputs, stage)
        shutil.rmtree(stage)
        return kept

    def build(self, arch, where, config, log):
        """The kernel, with its .config, .release, .map and .compiler beside it, or None."""
        stem = f"{arch.name}{config and '-' + config}"
        inputs = [self.identity(where), arch.name, config, self.compilers[arch.name], fragments(arch, config), build_rules(arch)]
        kept = self.store.files("kernels", inputs)
        if not kept:
            print(f"    {arch.name} {config} kernel of {where}", flush=True)
            self.go_to(self.commit(where))
            if not self.make(arch, log, self.place / f"{stem}.kernel", CONFIG=config):
                return None
            kept = self.keep("kernels", inputs, [path for path in self.place.glob(f"{stem}.*") if path.is_file()])
        return kept / f"{stem}.kernel"

    def programs(self, arch, where, log):
        """The initramfs: our programs, and upstream's tests as this state has them, or None."""
        paths = ("tools/testing/selftests/", "tools/include/", "tools/arch/", "include/uapi/", f"arch/{arch.kernel_arch}/include/uapi/")
        ours = self.out / "programs" / arch.name
        inputs = [self.identity(where, *paths), arch.name, self.compilers[arch.name], run.sha256(ours / "initramfs.cpio"), build_rules(arch)]
        kept = self.store.files("initramfs", inputs)
        if not kept:
            print(f"    {arch.name} tests of {where}", flush=True)
            self.go_to(self.commit(where))
            new = self.out / f"programs-{NAME}" / arch.name
            shutil.rmtree(new, ignore_errors=True)
            if not self.make(arch, log, new / "initramfs.cpio", TOOLS=NAME, OURS=str(ours / "bin")):
                return None
            kept = self.keep("initramfs", inputs, [new / "initramfs.cpio"])
        return kept / "initramfs.cpio"

    def request(self, arch, mode, kernel, initramfs, kind="tests", config="", names=(), icount=False):
        with knobs(MODE=mode, CONFIG=config, CASES=" ".join(names)):
            found, = run.requests([arch.name], kind, icount=icount, images=kernel.parent)
        return dataclasses.replace(found, initramfs=initramfs)

    def boot(self, request, label, again=0, keep=True):
        """The Boot of a request: one that was kept and is still judged to have gone well, or a new one."""
        inputs = boot_inputs(request, again)
        kept = self.store.files("boots", inputs) if keep else None
        if kept:
            boot = run.read_boot(request, kept, json.loads((kept / "meta.json").read_text()))
            boot = self.judge(self.this.judge(request, kept, boot.outcome))
            if all(map(settled, boot.findings)):
                return boot
        boot = self.judge(self.this.trial(request, self.fresh(label)))
        if keep and all(map(settled, boot.findings)):
            boot.meta.update(inputs)
            run.save_verdict(boot)
            boot.directory = self.store.keep_files("boots", inputs, boot.directory)
        return boot

    @staticmethod
    def judge(boot):
        """A boot that measures has to be usable as well."""
        for check in USABLE[boot.request.kind]:
            check(boot)
        return boot

    def fresh(self, label):
        """A directory of this run that does not exist yet."""
        names = [label, *(f"{label}-{n}" for n in range(2, 100))]
        return next(path for name in names if not (path := self.this.directory / name).exists())

    def once_more(self, arch, where):
        """Another boot of a state, whatever is known."""
        state = self.state(arch, where)
        return self.boot(state.boot.request, f"{where:04}-{arch.name}-again", keep=False)

    def inputs_of_blocks(self, arch, images, vcpus, modes):
        """All that their boots depend on, and how those are put together."""
        boots = [boot_inputs(self.measured(arch, where, "scale", modes, vcpus), 0) for where in images.values()]
        plugin = guest.plugin_path(self.measured(arch, 0, "scale", modes, vcpus), "lockstep")
        return [boots, stats.ORDER, "by mode", run.sha256(plugin)]

    def block(self, arch, images, attempt, vcpus, modes, number, function):
        """Rates of a block of boots of two images, which were measured in one go."""
        kept = self.store.once("blocks", [self.inputs_of_blocks(arch, images, vcpus, modes), attempt, number],
                               lambda: {"rates": function(), "repository": run.repository()})
        self.measured_by.add(kept["repository"])
        return kept["rates"]

    def given_up(self, arch, images, rates):
        """Rows of each measurement whose control flagged, in order."""
        return self.store.get("given-up", self.inputs_of_rates(arch, images, rates)) or []

    def give_up(self, arch, images, rates, rows):
        """So that all is measured again; what there is stays."""
        self.store.put("given-up", self.inputs_of_rates(arch, images, rates), [*self.given_up(arch, images, rates), rows])

    def inputs_of_rates(self, arch, images, rates):
        inputs = [(dataclasses.astuple(rate), self.inputs_of_blocks(arch, images, rate.vcpus, [rate.mode])) for rate in rates]
        return json.loads(json.dumps(inputs))  # as they come back

    def state(self, arch, where, mode=EACH_PATCH, config=""):
        """What there is after a patch, built and booted."""
        key = (arch.name, where, mode, config)
        if key not in self.states:
            self.prepare([(arch, where, mode, config)])
        return self.states[key]

    def prepare(self, wanted):
        """Build all of these states, then boot them, several at a time if they can; the same images are booted once.

        wanted: [(architecture, where, mode or EACH_PATCH, configuration)]
        """
        built = {(arch.name, *rest): self.images(arch, *rest) for arch, *rest in wanted if (arch.name, *rest) not in self.states}
        waiting = {}
        for (arch, _, mode, config), images in built.items():
            if isinstance(images, Images) and (arch, mode, config, images.hashes) not in self.booted:
                waiting.setdefault((arch, mode, config, images.hashes), images)
        for alone in (False, True):
            mine = [key for key, images in waiting.items() if wants_all_cpus(images.request) == alone]
            boots = at_once(lambda key: self.boot(waiting[key].request, waiting[key].label), mine, 1 if alone else os.cpu_count())
            self.booted.update(zip(mine, boots))
        for (arch, where, mode, config), images in built.items():
            self.states[arch, where, mode, config] = images if isinstance(images, State) else State(
                images.hashes, self.booted[arch, mode, config, images.hashes], images.request.kernel, images.request.initramfs)

    def images(self, arch, where, mode, config):
        """What is to be booted, or a State without a boot."""
        label = "-".join(filter(None, (f"{where:04}" if isinstance(where, int) else where, arch.name, mode, config)))
        log = self.this.directory / f"{label}.build.log"
        kernel = self.build(arch, where, config, log)
        initramfs = kernel and self.programs(arch, where, log)
        if not initramfs:
            what = "upstream's tests do" if kernel else "the kernel does"
            return State(problem=f"{what} not build: {first_error(log)}", log=str(log))
        names = () if mode else [case.name for case in cases.select(cases.default_path("tests"), arch.name, arch.modes[0].name)
                                 if not fnmatch.fnmatchcase(case.name, AT_THE_END)]
        request = self.request(arch, mode or arch.modes[0].name, kernel, initramfs, config=config, names=names)
        return Images((run.sha256(kernel), run.sha256(initramfs)), request, label)

    def state_before(self, arch, number):
        """The last one that there was."""
        return next(state for n in range(number - 1, -1, -1) if (state := self.state(arch, n)).boot)

    def measure(self, arch, where, kind, names, vcpus=0, again=0, keep=True):
        """A boot of make bench or make scale."""
        request = self.measured(arch, where, kind, names, vcpus, again)
        return self.boot(request, f"{where}-{request.directory}-{kind}-{again}", again, keep)

    def measured(self, arch, where, kind, names, vcpus=0, again=0):
        """The request for it: of these cases, those that this state has."""
        state = self.state(arch, where)
        if not state.boot:
            raise BadInput(f"{where}: {state.problem}")
        names = [case.name for case in cases.load(cases.default_path(kind)) if case.name in names and (where != 0 or case.needs == "-")]
        request = self.request(arch, arch.modes[0].name, state.kernel, state.initramfs, kind, names=names, icount=kind == "bench")
        if kind == "scale":
            return scale.with_lockstep(request, vcpus, again, quanta=perf.QUANTA)
        # another boot has other random numbers, and has to come to the same
        return dataclasses.replace(bench.with_timeline(request), seed=1 + again)


@contextlib.contextmanager
def knobs(**values):
    """Other values of run.py's knobs, for a while."""
    before = {name: os.environ.get(name, "") for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.update(before)


def prefix(arch):
    """Of the compiler, as guest.mk has it."""
    return "" if arch.cross.startswith(os.uname().machine) else run.knob("CROSS_COMPILE") or arch.cross


def whole(found):
    """What is to be kept: not what a tool said that died."""
    if any(status == "harness" for status, _ in found):
        raise BadInput(found[0][1])
    return found


def build_rules(arch):
    """What else an image depends on."""
    rules = [ROOT / "guest-images" / name for name in ("guest.mk", f"{arch.name}.mk")]
    return [*map(run.sha256, rules), run.knob("LLVM"), run.knob("CROSS_COMPILE"), run.first_line(f"{prefix(arch)}ld", "--version")]


def boot_inputs(request, again):
    """All that a boot depends on, but for what it is called: a state is known by its images."""
    unnamed = (*run.NOT_IDENTITY, "series", "series_sha256")
    inputs = {key: value for key, value in run.metadata(request).items() if key not in unnamed}
    parts = [request.arch, request.mode, request.config, request.cases, request.environment, request.timeline, request.lockstep]
    inputs |= {"again": again, "seed": request.seed, "timeout": request.timeout, "kind": request.kind, "parts": digest([repr(p) for p in parts])}
    if request.timeline:
        inputs["timeline_sha256"] = run.sha256(guest.plugin_path(request, "timeline"))
    return json.loads(json.dumps(inputs))  # as they come back


def fragments(arch, config):
    """Hashes of what a kernel's configuration is made of."""
    names = ["kernel", arch.name, *([config, f"{arch.name}-{config}"] if config else [])]
    places = (ROOT / "guest-images", ROOT / "kernel-patches" / run.knob("BASE"))
    return [run.sha256(path) for path in (place / f"{name}.config" for place in places for name in names) if path.exists()]


def first_error(log):
    """The line that says most in the log of a build."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line.strip() for line in lines if step.ERROR.search(line)), "see the log")
