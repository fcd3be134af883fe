# SPDX-License-Identifier: GPL-2.0
"""Boot a guest under QEMU, watch it, and leave its files in a directory.

    console.log   the kernel log, and which case was running
    tests.ktap    verdicts (ci/boot/ktap.py reads them)
    bench.jsonl   numbers, one JSON object a line
    gcov.raw, lockstep, timeline   what was asked for besides (results/README.md)
    qemu.log      what QEMU itself had to say

No opinion on results here: see ci/judge/verdict.py.
"""
import dataclasses
import glob
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time

from ci.boot import ktap
from ci.facts.arch import Arch, BadInput, Config, Mode
from ci.build.progress import LOG_SECONDS, TTY_SECONDS, show

# From the start of QEMU to the plan; emulated guests take 2 to 4 seconds.  Both are
# shorter in ci/tests/test_faults.py.
BOOT_SECONDS = int(os.environ.get("BOOT_SECONDS", 90))
# On top of the limit that the guest itself enforces for a case, and from the end
# record to the end of QEMU.  init.c takes 20 s to give up on a case it can't kill.
GRACE_SECONDS = int(os.environ.get("GRACE_SECONDS", 45))


# How much slower than the host's the clock of a guest in lockstep goes: Debian's libfaketime
# around QEMU.  A guest that is slowed down would take more timer ticks per instruction.
SLOWDOWN = 20
# Host time that a CPU in lockstep waits for one that stands in QEMU itself
LOCKSTEP_WAIT_US = 20000
# Grace periods of RCU are told in ticks, and those of a slow clock are long.
LOCKSTEP_APPEND = "rcupdate.rcu_expedited=1"
# For slots that are backed by hugetlb
HUGEPAGES = {"bench": 330}
FEW_HUGEPAGES = 16


# For whoever has guests in other threads than the one that ctrl-C reaches
STOP = threading.Event()


@dataclasses.dataclass(frozen=True)
class Lockstep:
    quanta: tuple    # instructions, of each timed part
    vcpus: int
    boot: int = 1    # which of several
    spin: tuple = () # (start, end) of where CPUs wait for a lock: a profile is wanted

    def __str__(self):
        return f"{self.vcpus}vcpus-{self.boot}"


@dataclasses.dataclass(frozen=True)
class Request:
    arch: Arch
    mode: Mode
    kind: str            # tests, bench, scale or profile
    cases: tuple         # of cases.Case
    kernel: pathlib.Path
    initramfs: pathlib.Path
    host_ticks: pathlib.Path  # guest-images/host_ticks.c, built
    release: str         # what uname -r must say
    accel: str = "tcg"
    cpus: int = 2
    icount: bool = False
    qemu: str = ""       # the binary
    timeout: int = 0     # seconds a case, instead of its own limit; not scaled
    config: Config = Config()
    environment: tuple = ()   # name=value, for the cases: seed, stress, ops
    lockstep: Lockstep = None  # hold the CPUs together: bench/lockstep/lockstep.c
    seed: int = 1              # of what is random in a guest under icount
    timeline: tuple = ()       # what bench/lockstep/timeline.c is to write down, as its arguments

    @property
    def name(self):
        return f"{self.arch.name}/{self.mode.name}"

    @property
    def directory(self):
        more = f"-{self.lockstep}" if self.lockstep else ""
        return f"{self.arch.name}-{self.mode.name}{more}"

    @property
    def scale(self):
        return self.config.scale * (self.arch.scale_tcg if self.accel == "tcg" else 1)

    @property
    def coverage(self):
        return self.config.name == "gcov"


@dataclasses.dataclass
class Outcome:
    stream: ktap.Stream
    how: str       # "exited", "timeout", "killed" or "interrupted"
    detail: str    # for the person who reads the verdict
    seconds: float


def qemu_binary(binary):
    if not shutil.which(binary):
        raise BadInput(f"{binary} not found: run make deps, or give QEMU=/path/to/it")
    return binary


def clock_parameters(request):
    """Tell an emulated guest how fast its counter runs, where it asks."""
    if request.accel != "tcg" or "KHZ" not in request.arch.append_tcg:
        return ""
    khz = "1000000"  # icount: a tick is a nanosecond
    if not request.icount:
        khz = subprocess.run([request.host_ticks], capture_output=True, text=True,
                             check=True, timeout=60).stdout.strip()
    if request.lockstep:
        # The counter of x86 goes at the host's pace, whatever the clock does.
        khz = str(int(khz) * SLOWDOWN)
    return request.arch.append_tcg.replace("KHZ", khz)


def boot_parameters(request):
    words = [request.arch.append, clock_parameters(request), request.mode.append, "panic=-1 oops=panic",
             f"hugepages={HUGEPAGES.get(request.kind, FEW_HUGEPAGES)}", request.config.append, *request.environment,
             f"{request.arch.append_lockstep} {LOCKSTEP_APPEND}" if request.lockstep else "",
             "nokaslr norandmaps mitigations=off" if request.icount or request.lockstep else "",
             f"run={request.kind}", f"scale={request.scale}",
             f"timeout={request.timeout}" if request.timeout else "",
             "cases=" + ",".join(case.name for case in request.cases)]
    return " ".join(word for word in words if word)


def accelerator(request):
    if request.accel == "kvm":
        return ["-accel", "kvm", "-cpu", request.arch.cpu_kvm]
    cpu = ["-cpu", request.arch.cpu_tcg]
    if not request.icount:
        threads = "multi" if request.lockstep else request.mode.threads
        return ["-accel", f"tcg,thread={threads}"] + cpu
    # One instruction is one nanosecond, and the same ones are executed each time:
    # no host clock, no host randomness.
    return ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off",
            "-rtc", "clock=vm,base=2026-01-01", "-seed", str(request.seed)] + cpu


def port(name, path):
    # A comma within a value is doubled, says QEMU.
    return ["-chardev", f"file,id={name},path={str(path).replace(',', ',,')}",
            "-device", f"virtserialport,chardev={name},name={name}"]


def console(path):
    return ["-chardev", f"file,id=console,path={str(path).replace(',', ',,')}",
            "-serial", "chardev:console"]


def device_tree(request, directory):
    """QEMU's arguments for its own device tree, but for what the mode is to lack."""
    if not request.mode.without:
        return []
    if not shutil.which("fdtput"):
        raise BadInput(f"fdtput not found, which mode {request.mode.name} needs: run make deps")
    path = directory / "dtb"
    subprocess.run([qemu_binary(request.qemu), "-nodefaults", "-display", "none", "-smp", str(request.cpus), "-cpu", request.arch.cpu_tcg,
                    "-m", str(request.config.memory_mb), "-machine", f"{request.arch.machine},dumpdtb={path}"],
                   check=True, capture_output=True, text=True, timeout=60)
    subprocess.run(["fdtput", "-d", str(path), *request.mode.without.split()], check=True, capture_output=True, text=True, timeout=60)
    return ["-dtb", str(path)]


def machine(request, initramfs, parameters):
    """The part of the command line that a run and a shell have in common."""
    return [qemu_binary(request.qemu), "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-nic", "none",
            "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-machine", request.arch.machine, *accelerator(request),
            "-smp", str(request.cpus), "-m", str(request.config.memory_mb),
            "-kernel", str(request.kernel), "-initrd", str(initramfs), "-append", parameters]


def plugin_path(request, name):
    """A plugin of bench/lockstep/, built for the API of this QEMU."""
    version = re.search(r"version (\d+)\.(\d+)", subprocess.run([request.qemu, "--version"], capture_output=True,
                                                              text=True, check=False).stdout)
    api = 1 if not version or int(version[1]) < 9 else 2 if (version[1], version[2]) == ("9", "0") else 3
    return request.host_ticks.with_name(f"{name}-{api}.so")


def plugin(request, name, *arguments):
    return ["-plugin", ",".join([str(plugin_path(request, name)), *arguments])]


def slow_clock(request):
    """What stands before QEMU."""
    if not request.lockstep:
        return []
    libraries = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    if not libraries:
        raise BadInput("libfaketimeMT.so.1 not found: run make deps")
    return ["env", f"LD_PRELOAD={libraries[0]}", f"FAKETIME=+0x{1 / SLOWDOWN}"]


def plugins(request, directory):
    def out(name):
        return f"out={directory / name}".replace(",", ",,")
    found = []
    if request.lockstep:
        found += plugin(request, "lockstep", *(f"quantum={quantum}" for quantum in request.lockstep.quanta),
                        f"wait_us={LOCKSTEP_WAIT_US}",
                        *(f"spin={start:x}-{end:x}" for start, end in request.lockstep.spin), out("lockstep"))
    if request.timeline:
        found += plugin(request, "timeline", *request.timeline, out("timeline"))
    return found


def command(request, directory):
    return [*slow_clock(request), *machine(request, request.initramfs, boot_parameters(request)), *device_tree(request, directory),
            *console(directory / "console.log"), "-device", "virtio-serial-device",
            *port("ktap", directory / "tests.ktap"), *port("bench", directory / "bench.jsonl"),
            *(port("gcov", directory / "gcov.raw") if request.coverage else []), *plugins(request, directory)]


def shell_command(request, initramfs):
    parameters = f"{request.arch.append} {clock_parameters(request)} {request.mode.append} panic=-1 quiet hugepages={FEW_HUGEPAGES} run=shell"
    return [*machine(request, initramfs, parameters), *device_tree(request, initramfs.parent), "-serial", "mon:stdio"]


class Tail:
    """Whole new lines of a file that somebody else writes."""

    def __init__(self, path):
        self.path, self.offset, self.rest = path, 0, b""

    def lines(self):
        try:
            with open(self.path, "rb") as stream:
                stream.seek(self.offset)
                data = stream.read()
        except FileNotFoundError:
            return []
        self.offset += len(data)
        *whole, self.rest = (self.rest + data).split(b"\n")
        return [line.decode(errors="replace") for line in whole]


class Watch:
    """Follow one machine until it ends, with a deadline for whatever it is doing."""

    def __init__(self, request, directory):
        self.request, self.stream = request, ktap.Stream()
        self.tail = Tail(directory / "tests.ktap")
        self.start = self.since = time.monotonic()
        self.stage, self.limit = "booting", BOOT_SECONDS * request.config.scale
        self.grace = GRACE_SECONDS * request.config.scale
        self.tty, self.shown = sys.stdout.isatty(), 0.0

    def poll(self):
        lines = self.tail.lines()
        for line in lines:
            self.stream.feed(line)
        if lines:
            self.restart_clock()
        self.show()

    def restart_clock(self):
        running = self.stream.running
        stage, limit = "between cases", self.grace
        if running:
            stage, limit = running[0], running[1] + self.grace
        elif self.stream.ended:
            stage = "ending"
        if stage != self.stage:
            self.stage, self.limit, self.since = stage, limit, time.monotonic()

    def overdue(self):
        return time.monotonic() - self.since > self.limit

    def show(self):
        now = time.monotonic()
        if now - self.shown < (TTY_SECONDS if self.tty else LOG_SECONDS):
            return
        self.shown = now
        done, plan = len(self.stream.results), self.stream.plan or len(self.request.cases)
        show(f"  {self.request.name:<14} {now - self.start:4.0f} s  {done}/{plan} done, "
             f"{self.stage} for {now - self.since:.0f} s", self.tty)


def end_of(process, watch):
    """Wait for the end of QEMU.  Returns (how, detail)."""
    while process.poll() is None:
        time.sleep(0.02)
        watch.poll()
        if STOP.is_set():
            return "interrupted", f"interrupted during {watch.stage}"
        if watch.overdue():
            process.kill()
            process.wait()
            return "timeout", f"{watch.stage} took longer than {watch.limit} s"
    watch.poll()
    if process.returncode < 0:
        return "killed", f"QEMU was killed by {signal.Signals(-process.returncode).name}"
    if process.returncode:
        return "killed", f"QEMU exited with status {process.returncode}, see qemu.log"
    return "exited", ""


def run(request, directory):
    """Boot; return the Outcome.  The directory must exist and be empty."""
    argv = command(request, directory)
    (directory / "command").write_text(shlex.join(argv) + "\n")
    watch = Watch(request, directory)
    with open(directory / "qemu.log", "wb") as log:
        # However this process dies, QEMU does not outlive it.
        process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *argv],
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   start_new_session=True)
        try:
            how, detail = end_of(process, watch)
        except KeyboardInterrupt:
            how, detail = "interrupted", f"interrupted during {watch.stage}"
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if watch.tty:
        show("", True)
    if watch.tail.rest:
        watch.stream.problem("cut off in the middle of a line")
    return Outcome(watch.stream, how, detail, time.monotonic() - watch.start)
