# SPDX-License-Identifier: GPL-2.0
"""A run: some boots, their directory below results/, and what is said at its end.

The knobs come from make, by environment: SERIES, BASE, CASES, MODE, ACCEL, QEMU,
TIMEOUT, CPUS, CONFIG, SEED, STRESS, OPS, DEFAULT_BASE, OUT (what was built), RESULTS
(where runs go).
"""
import dataclasses
import errno
import fcntl
import fnmatch
import hashlib
import json
import os
import pathlib
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

from ci.facts import arch as arch_
from ci.facts import cases as cases_
from ci.boot import qemu as guest
from ci.boot import ktap
from ci.judge import splats as splat
from ci.facts.arch import ROOT, BadInput, bases
from ci.judge.verdict import Finding, Verdict, judge, worst

# A run leaves some MiB; below this, QEMU would cut its files off silently.
MIN_FREE_MB = 64

# Knobs that a command which repeats a case must repeat, unless they have these values.
GIVEN_AGAIN = {"SERIES": "patched", "CONFIG": "", "ACCEL": "tcg", "TIMEOUT": "", "CPUS": "2",
               "QEMU": "", "SEED": "", "STRESS": "", "OPS": "", "O": "build", "LLVM": "", "CROSS_COMPILE": ""}

# Knobs that a case reads itself, from its environment: see selftests/README.md.
FOR_CASES = ("SEED", "STRESS", "OPS")

# Of a log, below a finding
EXCERPT, EXCERPT_COLUMNS = 6, 100

REMEDIES = {errno.ENOSPC: "make room", errno.ENOENT: "make images has not been run, or was cleaned away",
            errno.EACCES: "RESULTS= names another place", errno.EROFS: "RESULTS= names another place"}


def knob(name, default=""):
    return os.environ.get(name, "") or default


def number_knob(name, default):
    text = knob(name, str(default))
    if not (text.isascii() and text.isdigit()) or (name == "CPUS" and text == "0"):
        raise BadInput(f"{name}={text}: want a whole number")
    return int(text)


def check_kvm(arch):
    """Refuse ACCEL=kvm with the reason, where a guest hypervisor would not work."""
    here = {"x86_64": "x86", "aarch64": "arm64"}.get(platform.machine())
    if here != arch.name:
        raise BadInput(f"ACCEL=kvm: this host is {platform.machine()}, it cannot run {arch.name}")
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as error:
        raise BadInput(f"ACCEL=kvm: /dev/kvm: {error.strerror}") from None
    nested = [p.read_text().strip() for p in
              pathlib.Path("/sys/module").glob("kvm*/parameters/nested")]
    if arch.name == "x86" and not {"1", "Y"} & set(nested):
        raise BadInput("ACCEL=kvm: KVM on this host does not run a nested hypervisor "
                       "(no kvm_amd or kvm_intel with nested=1); use ACCEL=tcg")
    mode = pathlib.Path("/proc/cmdline").read_text()
    if arch.name == "arm64" and "kvm-arm.mode=nested" not in mode:
        raise BadInput("ACCEL=kvm: KVM on this host does not run a nested hypervisor "
                       "(not booted with kvm-arm.mode=nested); use ACCEL=tcg")


def plan(archs, kind, default_mode=False, icount=False):
    """What the knobs ask for, as (arch, mode, cases) for each boot; BadInput if they are off.

    default_mode: only the first mode of each, unless MODE= says otherwise.
    """
    accel = knob("ACCEL", "tcg")
    if accel not in ("tcg", "kvm"):
        raise BadInput(f"ACCEL={accel}: choose tcg or kvm")
    if accel == "kvm" and icount:
        raise BadInput("ACCEL=kvm: instructions can be counted under tcg only")
    if knob("QEMU") and len(archs) > 1:
        raise BadInput("QEMU= names one binary: say ARCH= as well")
    number_knob("CPUS", 2), number_knob("TIMEOUT", 0)
    patterns = knob("CASES").replace(",", " ").split()
    found = []
    for arch in map(arch_.load, archs):
        guest.qemu_binary(knob("QEMU") or arch.qemu)
        if accel == "kvm":
            check_kvm(arch)
        found += [(arch, mode, tuple(cases_.select(cases_.default_path(kind), arch.name, mode.name, patterns,
                                                       knob("CONFIG"))))
                  for mode in pick_modes(arch, default_mode)]
    check_patterns(patterns, kind, [case.name for _, _, cases in found for case in cases])
    # A mode may have none of the cases that were asked for.
    found = [(arch, mode, cases) for arch, mode, cases in found if cases]
    if not found:
        raise BadInput("nothing to run: no architecture, or no case for it")
    return found


def check_patterns(patterns, kind, names):
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise BadInput(f"CASES={pattern} matches nothing here: the first column of "
                           f"{cases_.default_path(kind)} has the names")


def pick_modes(arch, default_mode):
    wanted = list(dict.fromkeys(knob("MODE").split()))
    known = {mode.name: mode for mode in arch.modes}
    for name in wanted:
        if name not in known:
            raise BadInput(f"MODE={name}: {arch.name} has: {' '.join(known)}")
    return [known[name] for name in wanted] or list(arch.modes[:1] if default_mode else arch.modes)


def release_of(image, series, identity):
    """What was built says what it is; BadInput if that is another series than make was given."""
    release = image.with_name(image.name + ".release").read_text().strip()
    if identity and f"-{series}-{identity}" not in release:
        raise BadInput(f"{image}.kernel is {release}, not {series}-{identity}: another make has built there meanwhile; run this again")
    return release


def requests(archs, kind, default_mode=False, icount=False, images=None):
    """The plan, as one Request a boot, of what was built.

    images: where the kernels are, if not where make images has them.
    """
    out, config = pathlib.Path(knob("OUT", "build")).resolve(), arch_.load_config(knob("CONFIG"))
    for arch, mode, cases in plan(archs, kind, default_mode, icount):
        image = (images or out / knob("SERIES", "patched")) / (arch.name + (f"-{config.name}" if config.name else ""))
        release = release_of(image, knob("SERIES"), "" if images else knob("SERIES_ID"))
        yield guest.Request(arch, mode, kind, cases,
                            image.with_name(image.name + ".kernel"),
                            out / "programs" / arch.name / "initramfs.cpio", out / "host_ticks",
                            release, accel=knob("ACCEL", "tcg"), qemu=knob("QEMU") or arch.qemu,
                            cpus=1 if icount else number_knob("CPUS", 2), icount=icount,
                            timeout=number_knob("TIMEOUT", 0), config=config,
                            environment=tuple(f"{name.lower()}={number_knob(name, 0)}"
                                              for name in FOR_CASES if knob(name)))


def results_of(base):
    """Where what is committed of a base's results is."""
    return ROOT / "results" if base == bases()[0] else ROOT / "results" / base


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def first_line(*argv):
    output = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60).stdout
    return output.splitlines()[0] if output else ""


def series_hash(release):
    """What the series is: a hash over its patches' content, in order, without the cover letter.

    Empty if the kernel was built from a tree with changes of its own (guest.mk names it so), or
    of somebody's commits.
    """
    if release.endswith("-local") or knob("RANGE"):
        return ""
    total = hashlib.sha256()
    if knob("SERIES", "patched") == "patched":
        for patch in sorted((ROOT / "kernel-patches" / knob("BASE")).glob("*.patch")):
            if not patch.name.startswith("0000-"):
                total.update(patch.read_bytes())
    return total.hexdigest()


def lockstep_identity(request):
    return {"plugin_sha256": sha256(guest.plugin_path(request, "lockstep")), "quanta": list(request.lockstep.quanta),
            "wait_us": guest.LOCKSTEP_WAIT_US, "slowdown": guest.SLOWDOWN}


def metadata(request):
    """What makes a boot comparable with another; the keys are in results/README.md."""
    near = request.kernel.with_suffix
    return {
        **(lockstep_identity(request) if request.lockstep else {}),
        "cases": [case.name for case in request.cases],
        "arch": request.arch.name, "mode": request.mode.name, "accel": request.accel,
        "config": request.config.name, "icount": request.icount, "cpus": request.cpus,
        "base": knob("BASE"), **({"kernel": knob("KERNEL"), "commits": knob("COMMITS").split()} if knob("KERNEL") else {}),
        "series": knob("SERIES", "patched"),
        "series_sha256": series_hash(request.release), "release": request.release,
        "kernel_sha256": sha256(request.kernel), "config_sha256": sha256(near(".config")),
        "initramfs_sha256": sha256(request.initramfs),
        "compiler": near(".compiler").read_text().strip(),
        "qemu": first_line(request.qemu, "--version"),
        "host": f"{platform.system()} {platform.release()} {platform.machine()}",
        "repository": repository(),
    }


def repository():
    """The revision of this repository."""
    return first_line("git", "-C", str(ROOT), "describe", "--always", "--dirty")


@dataclasses.dataclass
class Boot:
    request: guest.Request
    directory: pathlib.Path
    outcome: guest.Outcome
    findings: list
    meta: dict = dataclasses.field(default_factory=dict)

    @property
    def verdict(self):
        return worst(self.findings)

    def count(self, status):
        """Results by status, as judged: an expected skip is one, a wrong pass a failure."""
        wrong = {f.case for f in self.findings if f.case and f.verdict != Verdict.KNOWN}
        known = {f.case for f in self.findings if f.verdict == Verdict.KNOWN} - wrong
        results = self.outcome.stream.results
        if status == "known":
            return len(known)
        if status == "failed":
            lost = [f for f in self.findings if not f.case]
            unheard = wrong - {r.name for r in results}
            return sum(r.name in wrong for r in results) + len(unheard) + bool(lost)
        return sum(r.status == status and r.name not in wrong | known for r in results)


class Run:
    """The directory of a run, and the boots in it."""

    def __init__(self, what, resume=None):
        """@resume: the directory of a run that was cut off, instead of a new one."""
        self.what, self.boots = what, []
        self.policy, self.known = splat.load_policy(), cases_.load_known()
        self.directory = pathlib.Path(resume).resolve() if resume else make_directory(
            pathlib.Path(knob("RESULTS", "results")), f"{time.strftime('%Y%m%d-%H%M%S')}-{what}")
        self.lock = lock_directory(self.directory)
        if resume:
            (self.directory / "table.txt").unlink(missing_ok=True)
            make_latest(self.directory)
        self.unfinished = None  # the boot under way: if it stays, the run was cut off

    def boot(self, request):
        self.unfinished = request
        directory = self.directory / request.directory
        meta = metadata(request)
        boot = finished_boot(request, directory, meta)
        if not boot:
            shutil.rmtree(directory, ignore_errors=True)
            make_room(directory)
            boot = self.judge(request, directory, guest.run(request, directory))
            boot.meta = meta
            save_verdict(boot)
        self.boots.append(boot)
        self.unfinished = None
        self.say(boot)
        if boot.verdict == Verdict.INTERRUPTED:
            raise KeyboardInterrupt
        return boot

    def trial(self, request, directory):
        """A boot that is a question asked on the way: not one of the run's results."""
        make_room(directory)
        boot = self.judge(request, directory, guest.run(request, directory))
        if boot.verdict == Verdict.INTERRUPTED:
            raise KeyboardInterrupt
        return boot

    def judge(self, request, directory, outcome):
        console = directory / "console.log"
        text = console.read_text(errors="replace") if console.exists() else ""
        findings = judge(request, outcome, text, knob("SERIES", "patched"),
                         self.policy, self.known)
        if disk_is_full(directory):
            findings.append(Finding(Verdict.HARNESS, "", DISK_IS_FULL, ""))
        return Boot(request, directory, outcome, findings)

    def say(self, boot):
        known = f", {boot.count('known')} known" if boot.count("known") else ""
        print(f"  {boot.request.name:<14} {boot.outcome.seconds:4.0f} s  {boot.count('pass')} passed, "
              f"{boot.count('failed')} failed, {boot.count('skip')} skipped{known}", flush=True)

    def finish(self, table):
        """The last screen of a measurement, with its table, which is kept; returns the exit status."""
        if table:
            (self.directory / "table.txt").write_text(table)
            print("\n" + table)
        for boot in self.boots:
            save_verdict(boot)
        return self.summary()

    def summary(self):
        """The last screen; returns the exit status."""
        findings = [f for boot in self.boots for f in boot.findings]
        for boot in self.boots:
            for finding in boot.findings:
                print(explain(boot, finding))
        verdict = worst(findings)
        if self.unfinished:
            verdict = max(verdict, Verdict.HARNESS, key=lambda v: v.weight)
            print(f"HARNESS {self.unfinished.name}: not finished")
        print(f"verdict: {verdict.name.lower()}, {self.directory}")
        passed, failed, skipped, known = (sum(boot.count(status) for boot in self.boots)
                                          for status in ("pass", "failed", "skip", "known"))
        failed += bool(self.unfinished)
        # A known failure did not pass: among passed, failed and skipped, it is a skip.
        print(f"{passed} passed, {failed} failed, {skipped + known} skipped", flush=True)
        return max(int(verdict), 0)


# What may differ between the boots of a run that was resumed
NOT_IDENTITY = ("repository", "host")


def check_resume(what):
    """The directory that RESUME= names, or None."""
    path = pathlib.Path(knob("RESUME")) if knob("RESUME") else None
    if path and not (path.is_dir() and re.fullmatch(rf"\d+-\d+-{what}(-\d+)?", path.resolve().name)):
        raise BadInput(f"RESUME={path}: not the directory of a run of make {what}")
    return path


def lock_directory(directory):
    """To be held as long as the run goes on: two would take each other's boots away."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BadInput(f"{directory}: that run is still under way") from None
    return descriptor


def read_meta(path):
    """What a boot has left, or {} if that is nothing whole."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}


def finished_boot(request, directory, meta):
    """The Boot that passed before the run was cut off, as it was judged then, or None."""
    then = read_meta(directory / "meta.json")
    if then.get("verdict") != "pass":
        return None
    changed = [key for key, value in meta.items() if key not in NOT_IDENTITY and then.get(key) != value]
    if changed:
        raise BadInput(f"{directory}/meta.json was measured with another {', '.join(changed)}: start anew, without RESUME=")
    return read_boot(request, directory, then)


def read_boot(request, directory, meta):
    """A boot that went well, from what it has left."""
    stream = ktap.Stream()
    for line in (directory / "tests.ktap").read_text(errors="replace").splitlines():
        stream.feed(line)
    return Boot(request, directory, guest.Outcome(stream, "exited", "", meta["seconds"]), [], meta)


DISK_IS_FULL = "the disk is full: make room, run again"


def make_room(directory):
    directory.mkdir(parents=True)
    if disk_is_full(directory):
        raise BadInput(f"less than {MIN_FREE_MB} MiB free in {directory}: make room")


def disk_is_full(directory):
    stat = os.statvfs(directory)
    return stat.f_bavail * stat.f_frsize < number_knob("MIN_FREE_MB", MIN_FREE_MB) << 20


def make_directory(results, name):
    results.mkdir(parents=True, exist_ok=True)
    directory = results / name
    for more in range(2, 100):
        try:
            directory.mkdir()
            break
        except FileExistsError:  # another run of the same second
            directory = results / f"{name}-{more}"
    make_latest(directory)
    return directory


def make_latest(directory):
    """By renaming, since two runs may start at once."""
    link = directory / "latest"
    link.unlink(missing_ok=True)
    link.symlink_to(directory.name)
    link.replace(directory.parent / "latest")


def save_verdict(boot):
    """Partial results are kept too, and say so: the verdict is part of the metadata."""
    meta = boot.meta
    meta["verdict"] = boot.verdict.name.lower()
    meta["seconds"] = round(boot.outcome.seconds, 1)
    meta["findings"] = [{"verdict": f.verdict.name.lower(), "case": f.case, "text": f.text,
                         "where": f.where} for f in boot.findings]
    meta["results"] = [{"name": r.name, "status": r.status, "reason": r.reason}
                       for r in boot.outcome.stream.results]
    # By renaming: a run that is cut off here has to be readable.
    path = boot.directory / "meta.json.new"
    path.write_text(json.dumps(meta, indent=1) + "\n")
    path.replace(boot.directory / "meta.json")


def knobs_given(*more):
    """Those that are not what they are anyway, for a command line; @more: names that have no default."""
    defaults = {**GIVEN_AGAIN, "BASE": bases()[0], **dict.fromkeys(more, "")}
    given = {name: knob(name) for name in defaults}
    if knob("KERNEL"):  # where the base of the patches is another one, if none is named
        given["BASE"], given["KERNEL"] = "" if given["BASE"] == knob("KERNEL_BASE") else given["BASE"], knob("KERNEL")
        if knob("RANGE") and given["SERIES"] == "patched":
            given["SERIES"] = knob("RANGE")
    return [shlex.quote(f"{name}={value}") for name, value in given.items() if value not in ("", defaults.get(name))]


def excerpt(log):
    """The last lines of FILE, or up to the one that FILE:LINE names: who reads a report may not have the file."""
    path, _, line = log.rpartition(":")
    path, last = (pathlib.Path(path), int(line)) if line.isdigit() else (pathlib.Path(log), None)
    try:
        return path.read_text(errors="replace").splitlines()[:last][-EXCERPT:]
    except OSError:
        return []


def explain(boot, finding):
    """A finding, its log with the end of it, and the one command that repeats just it."""
    request = boot.request
    knobs = [f"ARCH={request.arch.name}", f"MODE={request.mode.name}", *knobs_given()]
    knobs += [f"VCPUS={request.lockstep.vcpus}"] if request.lockstep else []
    knobs += [f"CASES={finding.case}"] if finding.case else []
    if finding.verdict == Verdict.KNOWN:
        return f"KNOWN {request.name} {finding.case}: {finding.text}"
    log = f"{boot.directory}/{finding.where}"
    said = "".join(f"      | {line[:EXCERPT_COLUMNS]}\n" for line in excerpt(log))
    return (f"{finding.verdict.name} {request.name} {finding.case}: {finding.text}\n"
            f"    log:    {log}\n{said}"
            f"    repeat: make {'check' if request.kind == 'tests' else request.kind} {' '.join(knobs)}")


def show_plan(found):
    for arch, mode, cases in found:
        print(f"  {arch.name + '/' + mode.name:<14} {len(cases)} cases")
    return 0


def main(function, argv):
    """Run a tool's function; bad input is one line on stderr and status 2."""
    # Explicitly: a shell that starts a job in the background has it ignore ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)
    try:
        return function(argv)
    except BadInput as error:
        print(f"ci: {error}", file=sys.stderr)
    except OSError as error:
        print(f"ci: {error}; {REMEDIES.get(error.errno, 'mend that and run again')}", file=sys.stderr)
    except subprocess.SubprocessError as error:
        said = getattr(error, "stderr", None) or ""
        print(f"ci: {error} {said if isinstance(said, str) else said.decode(errors='replace')}".rstrip(), file=sys.stderr)
    except KeyboardInterrupt:
        print("ci: interrupted; what there was so far is kept, and marked", file=sys.stderr)
        return int(Verdict.INTERRUPTED)
    return int(Verdict.HARNESS)
