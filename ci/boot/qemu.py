# SPDX-License-Identifier: GPL-2.0
"""QEMU's command line for a request.  What it leaves in its directory: results/README.md."""
import glob
import pathlib
import shutil
import subprocess

from ci.boot.request import LOCKSTEP_WAIT_US, SLOWDOWN, Request, plugin_path
from ci.facts.text import BadInput

# Grace periods of RCU are told in ticks, and those of a slow clock are long.
LOCKSTEP_APPEND = "rcupdate.rcu_expedited=1"
# For slots that are backed by hugetlb
HUGEPAGES = {"bench": 330}
FEW_HUGEPAGES = 16
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


def clock_parameters(request: Request) -> str:
    """Tell an emulated guest how fast its counter runs, where it asks."""
    if request.accel != "tcg" or "KHZ" not in request.arch.append_tcg:
        return ""
    khz = "1000000"  # icount: a tick is a nanosecond
    if not request.icount:
        khz = subprocess.run([request.host_ticks], capture_output=True, text=True, check=True,
                             timeout=60).stdout.strip()
    if request.lockstep:
        # The counter of x86 goes at the host's pace, whatever the clock does.
        khz = str(int(khz) * SLOWDOWN)
    return request.arch.append_tcg.replace("KHZ", khz)


def boot_parameters(request: Request) -> str:
    words = [
        request.arch.append, clock_parameters(request), request.mode.append,
        "panic=-1 quiet" if request.kind == "shell" else "panic=-1 oops=panic",
        f"hugepages={HUGEPAGES.get(request.kind, FEW_HUGEPAGES)}",
        request.config.append, *request.environment]
    if request.lockstep:
        words += [request.arch.append_lockstep, LOCKSTEP_APPEND]
    if request.icount or request.lockstep:
        words.append("nokaslr norandmaps mitigations=off")
    words += [f"run={request.kind}", f"scale={request.scale}"]
    if request.timeout:
        words.append(f"timeout={request.timeout}")
    words.append("cases=" + ",".join(case.name for case in request.cases))
    return " ".join(filter(None, words))


def accelerator(request: Request) -> list[str]:
    if request.accel == "kvm":
        return ["-accel", "kvm", "-cpu", request.arch.cpu_kvm]
    cpu = ["-cpu", request.arch.cpu_tcg]
    if not request.icount:
        threads = "multi" if request.lockstep else request.mode.threads
        return ["-accel", f"tcg,thread={threads}", *cpu]
    # One instruction is one nanosecond, and the same ones are executed each time:
    # no host clock, no host randomness.
    return ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off",
            "-rtc", "clock=vm,base=2026-01-01", "-seed", str(request.seed), *cpu]


def value(path: pathlib.Path) -> str:
    """A comma within a value is doubled, says QEMU."""
    return str(path).replace(",", ",,")


def port(name: str, path: pathlib.Path) -> list[str]:
    return ["-chardev", f"file,id={name},path={value(path)}",
            "-device", f"virtserialport,chardev={name},name={name}"]


def device_tree(request: Request, directory: pathlib.Path) -> list[str]:
    """QEMU's arguments for its own device tree, but for what the mode is to lack."""
    if not request.mode.without:
        return []
    if not shutil.which("fdtput"):
        raise BadInput(f"fdtput not found, which mode {request.mode.name} needs: run make deps")
    path = directory / "dtb"
    dump = [request.qemu, "-nodefaults", "-display", "none",
            "-smp", str(request.cpus), "-cpu", request.arch.cpu_tcg,
            "-m", str(request.config.memory_mb),
            "-machine", f"{request.arch.machine},dumpdtb={value(path)}"]
    for argv in (dump, ["fdtput", "-d", str(path), *request.mode.without.split()]):
        subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60)
    return ["-dtb", str(path)]


def machine(request: Request, directory: pathlib.Path) -> list[str]:
    """What a run and a shell have in common."""
    return [request.qemu, "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-nic", "none", "-sandbox", SANDBOX,
            "-machine", request.arch.machine, *accelerator(request),
            "-smp", str(request.cpus), "-m", str(request.config.memory_mb),
            "-kernel", str(request.kernel), "-initrd", str(request.initramfs),
            "-append", boot_parameters(request), *device_tree(request, directory)]


def slow_clock() -> list[str]:
    """What stands before QEMU for a guest in lockstep."""
    libraries = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    if not libraries:
        raise BadInput("libfaketimeMT.so.1 not found: run make deps")
    return ["env", f"LD_PRELOAD={libraries[0]}", f"FAKETIME=+0x{1 / SLOWDOWN}"]


def plugin(request: Request, directory: pathlib.Path, name: str, *arguments: str) -> list[str]:
    words = [str(plugin_path(request, name)), *arguments, f"out={value(directory / name)}"]
    return ["-plugin", ",".join(words)]


def plugins(request: Request, directory: pathlib.Path) -> list[str]:
    argv = []
    if request.lockstep:
        argv += plugin(request, directory, "lockstep",
                       *(f"quantum={quantum}" for quantum in request.lockstep.quanta),
                       f"wait_us={LOCKSTEP_WAIT_US}",
                       *(f"spin={start:x}-{end:x}" for start, end in request.lockstep.spin))
    if request.timeline:
        argv += plugin(request, directory, "timeline", *request.timeline)
    return argv


def command(request: Request, directory: pathlib.Path) -> list[str]:
    return [
        *(slow_clock() if request.lockstep else []), *machine(request, directory),
        "-chardev", f"file,id=console,path={value(directory / 'console.log')}",
        "-serial", "chardev:console", "-device", "virtio-serial-device",
        *port("ktap", directory / "tests.ktap"), *port("bench", directory / "bench.jsonl"),
        *(port("gcov", directory / "gcov.raw") if request.config.name == "gcov" else []),
        *plugins(request, directory)]
