# SPDX-License-Identifier: GPL-2.0
"""What a boot is: planned from the knobs, and known by all that its outcome depends on."""
import dataclasses
import fnmatch
import os
import pathlib
import platform
import re
import shutil
from typing import Any

from ci.boot import ktap
from ci.build import images as images_
from ci.build import source as source_
from ci.build.files import digest, first_line, sha256
from ci.build.git import repository
from ci.build.source import Source
from ci.config import FOR_CASES, Config
from ci.facts import cases as cases_
from ci.facts.arch import ALIASES, Arch, KernelConfig, Mode
from ci.facts.cases import Case
from ci.facts.text import BadInput

# How much slower than the host's the clock of a guest in lockstep goes: Debian's libfaketime
# around QEMU.  A guest that is slowed down would take more timer ticks per instruction.
SLOWDOWN = 20
# Host time that a CPU in lockstep waits for one that stands in QEMU itself
LOCKSTEP_WAIT_US = 20000

Plan = list[tuple[Arch, Mode, tuple[Case, ...]]]


@dataclasses.dataclass(frozen=True)
class Lockstep:
    quanta: tuple[int, ...]   # instructions, of each timed part
    vcpus: int
    boot: int = 1             # which of several
    # (start, end) of where CPUs wait for a lock: a profile is wanted
    spin: tuple[tuple[int, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class Request:
    arch: Arch
    mode: Mode
    kind: str                 # tests, bench, scale, profile or shell
    cases: tuple[Case, ...]
    kernel: pathlib.Path
    initramfs: pathlib.Path
    host_ticks: pathlib.Path  # guest-images/host_ticks.c, built; the plugins are beside it
    release: str              # what uname -r must say
    source: Source
    accel: str = "tcg"
    cpus: int = 2
    icount: bool = False
    qemu: str = ""            # the binary
    timeout: int = 0          # seconds a case, instead of its own limit; not scaled
    config: KernelConfig = KernelConfig()
    environment: tuple[str, ...] = ()  # name=value, for the cases: seed, stress, ops
    lockstep: Lockstep | None = None   # hold the CPUs together: bench/lockstep/lockstep.c
    seed: int = 1                      # of what is random in a guest under icount
    timeline: tuple[str, ...] = ()     # arguments of bench/lockstep/timeline.c
    boot_seconds: int = 90             # limits, not scaled: ci/config.py
    grace_seconds: int = 45

    @property
    def name(self) -> str:
        return f"{self.arch.name}/{self.mode.name}"

    @property
    def directory(self) -> str:
        more = f"-{self.lockstep.vcpus}vcpus-{self.lockstep.boot}" if self.lockstep else ""
        return f"{self.arch.name}-{self.mode.name}{more}"

    @property
    def scale(self) -> int:
        return self.config.scale * (self.arch.scale_tcg if self.accel == "tcg" else 1)


@dataclasses.dataclass
class Outcome:
    stream: ktap.Stream
    how: str        # "exited", "timeout", "killed" or "interrupted"
    detail: str     # for the person who reads the verdict
    seconds: float


def plan(config: Config, kind: str, default_mode: bool = False, icount: bool = False) -> Plan:
    """What the knobs ask for, a row a boot; BadInput if they are off.  Builds nothing.

    default_mode: only the first mode of each architecture, unless MODE= says otherwise.
    """
    if config.accel == "kvm" and icount:
        raise BadInput("ACCEL=kvm: instructions can be counted under tcg only")
    if config.qemu and len(config.archs) > 1:
        raise BadInput("QEMU= names one binary: say ARCH= as well")
    path, found = pathlib.Path(config.cases_file or cases_.FILES[kind]), []
    for arch in config.archs:
        binary = config.qemu or arch.qemu
        if not shutil.which(binary):
            raise BadInput(f"{binary} not found: run make deps, or give QEMU=/path/to/it")
        if config.accel == "kvm":
            check_kvm(arch)
        wanted = tuple(arch.mode(name) for name in dict.fromkeys(config.mode))
        for mode in wanted or (arch.modes[:1] if default_mode else arch.modes):
            found.append((arch, mode, tuple(cases_.select(
                path, arch.name, mode.name, config.base_facts, config.cases, config.config))))
    names = [case.name for _, _, cases in found for case in cases]
    for pattern in config.cases:
        if not fnmatch.filter(names, pattern):
            raise BadInput(f"CASES={pattern} matches nothing here: the first column of {path} has "
                           "the names")
    if not names:
        raise BadInput("nothing to run: no architecture, or no case for it")
    # A mode may have none of the cases that were asked for.
    return [row for row in found if row[2]]


def check_kvm(arch: Arch) -> None:
    """Refuse ACCEL=kvm with the reason, where a guest hypervisor would not work."""
    if ALIASES.get(platform.machine()) != arch.name:
        raise BadInput(f"ACCEL=kvm: this host is {platform.machine()}, it cannot run {arch.name}")
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as error:
        raise BadInput(f"ACCEL=kvm: /dev/kvm: {error.strerror}") from None
    nested = {path.read_text().strip()
              for path in pathlib.Path("/sys/module").glob("kvm*/parameters/nested")}
    booted = pathlib.Path("/proc/cmdline").read_text()
    missing = ""
    if arch.name == "x86" and not {"1", "Y"} & nested:
        missing = "no kvm_amd or kvm_intel with nested=1"
    if arch.name == "arm64" and "kvm-arm.mode=nested" not in booted:
        missing = "not booted with kvm-arm.mode=nested"
    if missing:
        raise BadInput("ACCEL=kvm: KVM on this host does not run a nested hypervisor "
                       f"({missing}); use ACCEL=tcg")


def show_plan(found: Plan) -> None:
    for arch, mode, cases in found:
        print(f"  {arch.name + '/' + mode.name:<14} {len(cases)} cases", flush=True)


def requests(config: Config, kind: str, default_mode: bool = False, icount: bool = False,
             images: pathlib.Path | None = None) -> list[Request]:
    """The plan, as one Request a boot, of what was built.

    images: where the kernels are, if not where make images has them.
    """
    out, source = pathlib.Path(config.images or config.out).resolve(), source_.of(config)
    wanted = "" if images or config.images else f"-{source.series}-{source.identity}"
    environment = tuple(f"{name}={value}" for name in FOR_CASES
                        if (value := getattr(config, name)) is not None)
    found = []
    for arch, mode, cases in plan(config, kind, default_mode, icount):
        image = images_.image(config, arch, images or out / source.series)
        check_release(image, wanted)
        found.append(Request(
            arch, mode, kind, cases, image.kernel, out / "programs" / arch.name / "initramfs.cpio",
            out / "host_ticks", image.release, source, accel=config.accel,
            cpus=1 if icount else config.cpus, icount=icount, qemu=config.qemu or arch.qemu,
            timeout=config.timeout, config=config.kernel_config, environment=environment,
            boot_seconds=config.boot_seconds, grace_seconds=config.grace_seconds))
    return found


def check_release(image: images_.Image, wanted: str) -> None:
    """What was built says what it is: refuse another series than the one that was asked for."""
    if wanted not in image.release:
        raise BadInput(f"{image.kernel} is {image.release}, not {wanted.lstrip('-')}: another make "
                       "has built there meanwhile; run this again")


def plugin_path(request: Request, name: str) -> pathlib.Path:
    """A plugin of bench/lockstep/, built for the API of this QEMU."""
    found = re.search(r"version (\d+)\.(\d+)", first_line(request.qemu, "--version"))
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    api = 1 if version < (9, 0) else 2 if version == (9, 0) else 3
    return request.host_ticks.with_name(f"{name}-{api}.so")


def identity(request: Request, again: int = 0) -> dict[str, Any]:
    """All that the outcome depends on, by content, as JSON has it: keys of results/README.md.

    again: another boot of the same has another number.
    """
    image = images_.Image(request.kernel)
    parts = (request.arch, request.mode, request.config, request.cases, request.environment,
             request.lockstep, request.timeline)
    found: dict[str, Any] = {
        "arch": request.arch.name, "mode": request.mode.name, "kind": request.kind,
        "config": request.config.name, "accel": request.accel, "icount": request.icount,
        "cpus": request.cpus, "seed": request.seed, "timeout": request.timeout, "again": again,
        "cases": [case.name for case in request.cases], "parts": digest(list(map(repr, parts))),
        "release": request.release, "kernel_sha256": sha256(request.kernel),
        "config_sha256": sha256(image.config), "initramfs_sha256": sha256(request.initramfs),
        "compiler": image.compiler, "qemu": first_line(request.qemu, "--version")}
    if request.lockstep:
        found |= {"plugin_sha256": sha256(plugin_path(request, "lockstep")),
                  "quanta": list(request.lockstep.quanta), "wait_us": LOCKSTEP_WAIT_US,
                  "slowdown": SLOWDOWN}
    if request.timeline:
        found["timeline_sha256"] = sha256(plugin_path(request, "timeline"))
    return found


def metadata(request: Request) -> dict[str, Any]:
    """The identity, and what the parts are called."""
    source = request.source
    theirs = {"kernel": source.kernel, "commits": list(source.commits)} if source.kernel else {}
    # Such a tree has changes of its own: ci/build/images.py
    local = request.release.endswith("-local")
    return {**identity(request), **theirs, "base": source.base.name, "series": source.series,
            "series_sha256": "" if local else source.series_sha256, "repository": repository(),
            "host": f"{platform.system()} {platform.release()} {platform.machine()}"}
