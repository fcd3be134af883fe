# SPDX-License-Identifier: GPL-2.0
"""From a source to images: the only caller of kernel-patches/apply and guest-images/guest.mk.

	OUT/SERIES/linux                   the tree
	OUT/SERIES/ARCH[-CONFIG].kernel    beside it .config, .release, .map, .compiler
	OUT/programs/ARCH/initramfs.cpio   of the series' tree, whatever kernel boots it
"""
import contextlib
import dataclasses
import fcntl
import functools
import os
import pathlib
import re
import subprocess
import tempfile
from collections.abc import Iterator

from ci import config as config_
from ci.build import config_check, git, progress, source
from ci.config import Config
from ci.facts import cases
from ci.facts.arch import Arch
from ci.facts.text import FACT, ROOT, BadInput

GUEST_MK = "guest-images/guest.mk"
# What guest.mk is asked for, one after the other: (what a person calls it, target)
KERNEL_STEPS = (("kernel", "kernel"),)
PROGRAM_STEPS = (("headers", "headers"), ("upstream's tests", "upstream"), ("our tests", "ours"),
                 ("initramfs, plugins", "all"))


@dataclasses.dataclass(frozen=True)
class Toolchain:
    """Which compiler there is for an architecture, as guest.mk says."""
    cross: str       # prefix of its programs, or ""
    version: str     # first line of its --version
    linker: str
    variables: tuple[str, ...]             # for kbuild
    ccache: tuple[str, ...]                # its environment, as NAME=value
    fragments: tuple[pathlib.Path, ...]    # of the kernel's configuration


@dataclasses.dataclass(frozen=True)
class Image:
    """A kernel, and what guest.mk has left beside it."""
    kernel: pathlib.Path

    @property
    def config(self) -> pathlib.Path:
        return self.kernel.with_suffix(".config")

    @property
    def map(self) -> pathlib.Path:
        return self.kernel.with_suffix(".map")

    @property
    def release(self) -> str:
        return self.kernel.with_suffix(".release").read_text().strip()

    @property
    def compiler(self) -> str:
        return self.kernel.with_suffix(".compiler").read_text().strip()


def image(config: Config, arch: Arch, place: pathlib.Path | None = None) -> Image:
    place = place or config.out / config.series_name
    return Image(place / f"{arch.name}{config.kernel_config.suffix}.kernel")


def initramfs(config: Config, arch: Arch) -> pathlib.Path:
    return config.out / "programs" / arch.name / "initramfs.cpio"


# --- one at a time ---

@contextlib.contextmanager
def lock(path: pathlib.Path, how: int, message: str = "") -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as stream:
        # What we start holds it too: a compiler may outlive us.
        os.set_inheritable(stream.fileno(), True)
        try:
            fcntl.flock(stream, how | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"  {message}; waiting for it", flush=True)
            fcntl.flock(stream, how)
        yield


def alone(path: pathlib.Path, what: str) -> contextlib.AbstractContextManager[None]:
    """One of its kind at a time in a place: a second one waits."""
    return lock(path, fcntl.LOCK_EX, f"another make {what}")


def building(config: Config) -> contextlib.AbstractContextManager[None]:
    return alone(pathlib.Path(config.o) / "lock", f"is building in {config.o}")


def booting(config: Config) -> contextlib.AbstractContextManager[None]:
    """While guests run, another make must not replace what they boot."""
    return lock(pathlib.Path(config.o) / "lock", fcntl.LOCK_SH,
                f"another make is building in {config.o}")


# --- trees ---

def apply_command(config: Config, directory: pathlib.Path, series: str,
                  tree: pathlib.Path | str) -> list[str]:
    return [str(ROOT / "kernel-patches" / "apply"), str(directory), series, config.cache, str(tree)]


def apply_environment(config: Config) -> dict[str, str]:
    commits = " ".join(source.of(dataclasses.replace(config, base_only=False)).commits)
    return git.environment(KERNEL=config.kernel, RANGE=config.range, KERNEL_COMMITS=commits,
                           OUT=str(config.out))


def apply(config: Config, directory: pathlib.Path, series: str, tree: pathlib.Path | str) -> None:
    """Make a git tree of a series, without a word; BadInput says why not."""
    done = subprocess.run(apply_command(config, directory, series, tree), capture_output=True,
                          text=True, check=False, env=apply_environment(config))
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise BadInput(said[-1] if said else f"kernel-patches/apply: status {done.returncode}")


def check_source(config: Config) -> None:
    """Refuse a tree or a series that cannot be applied before anything is built."""
    if config.kernel:
        apply(config, config.base_facts.directory, config.series_name, "-")


def make_tree(config: Config, series: str) -> None:
    progress.step(f"{config.base} {series}: tree", config.out / f"{series}.tree.log",
                  apply_command(config, config.base_facts.directory, series,
                                config.out / series / "linux"),
                  config.verbose, env=apply_environment(config))


def local(tree: pathlib.Path) -> str:
    """Work on a tree that is not in kernel-patches/ yet is built as it is, and named so."""
    head = tree / ".git" / "applied.head"
    if not head.exists():
        return ""
    changed = (git.git(tree, "status", "--porcelain")
               or git.git(tree, "rev-parse", "HEAD") != head.read_text().strip())
    return "-local" if changed else ""


# --- guest.mk ---

def programs(arch: Arch) -> list[str]:
    """Of all cases that run in some mode of an architecture."""
    files = dict.fromkeys(cases.FILES.values())
    return sorted({case.command[0] for path in files for case in cases.load(path)
                   if {"all", arch.name} & {place.split("/")[0] for place in case.archs}})


def guest_make(config: Config, arch: Arch, *targets: pathlib.Path | str,
               **variables: str) -> list[str]:
    """The command that has guest.mk make targets."""
    series = variables.get("SERIES", config.series_name)
    given = {"ARCH": arch.name, "OUT": str(config.out), "BASE": config.base, "SERIES": series,
             "SERIES_ID": source.of(config).identity, "CONFIG": config.config,
             "LOCAL": "" if targets == ("facts",) else local(config.out / series / "linux"),
             "V": "1" if config.verbose else "0", "CACHE": os.path.abspath(config.cache),
             "LLVM": config.llvm, "CROSS_COMPILE": config.cross_compile,
             "PROGRAMS": " ".join(programs(arch)), **variables}
    return ["make", "--no-print-directory", "-C", str(ROOT), "-f", GUEST_MK, f"-j{config.jobs}",
            *(f"{name}={value}" for name, value in given.items()), *map(str, targets)]


@functools.cache
def toolchain(config: Config, arch: Arch) -> Toolchain:
    done = subprocess.run(guest_make(config, arch, "facts"), capture_output=True, text=True,
                          check=False, env=config_.environment())
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"guest.mk: status {done.returncode}"]
        raise BadInput(re.sub(r"^\S+guest.mk:\d+: \*\*\* (.*?)\.?(?:  Stop\.)?$", r"\1", said[0]))
    have = {m[1]: m[2].strip() for m in map(FACT.fullmatch, done.stdout.splitlines()) if m}
    variables = (f"CROSS_COMPILE={have['cross']}", f"CC={have['cc']}", f"HOSTCC={have['hostcc']}",
                 *([f"LLVM={have['llvm']}"] if have["llvm"] else []))
    return Toolchain(have["cross"], have["version"], have["linker"], variables,
                     tuple(have["ccache"].split()),
                     tuple(ROOT / name for name in have["fragments"].split()))


def kernel_make(config: Config, arch: Arch, tree: pathlib.Path, objects: str,
                *arguments: str) -> tuple[int, str]:
    """(status, all that it said) of make in a kernel's tree, with the compiler of guest.mk."""
    tools = toolchain(config, arch)
    caching = dict(word.split("=", 1) for word in tools.ccache)
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        status = progress.call(["make", "-s", f"-j{config.jobs}", "-C", str(tree), f"O={objects}",
                                f"ARCH={arch.kernel_arch}", *tools.variables,
                                "LOCALVERSION=-check", *arguments],
                               log, env=config_.environment(**caching))
        log.seek(0)
        return status, log.read()


def make_steps(config: Config, arch: Arch, steps: tuple[tuple[str, str], ...],
               **variables: str) -> None:
    for name, target in steps:
        log = (config.out / config.series_name / f"{arch.name}{config.kernel_config.suffix}.logs"
               / f"{target}.log")
        progress.step(f"{arch.name} {config.series_name}: {name}", log,
                      guest_make(config, arch, target, **variables), config.verbose,
                      env=config_.environment())


def configure(config: Config, arch: Arch) -> None:
    """Each line of the fragments has to be in the kernel's .config."""
    make_steps(config, arch, (("configuration", "configuration"),))
    config_check.check(image(config, arch).config, toolchain(config, arch).fragments)


def build(config: Config, archs: list[Arch] | None = None, programs: bool = True) -> None:
    """All that boots: trees, kernels, and the programs of the series."""
    archs = archs or config.archs
    check_source(config)
    for arch in archs:
        toolchain(config, arch)
    with building(config):
        for series in sorted({"patched", config.series_name}):
            make_tree(config, series)
        if local(config.out / config.series_name / "linux"):
            print(f"note: {config.out}/{config.series_name}/linux differs from kernel-patches/; "
                  "the release says so", flush=True)
        for arch in archs:
            configure(config, arch)
            make_steps(config, arch, KERNEL_STEPS + (PROGRAM_STEPS if programs else ()))


# --- what more is in other images ---

def debian_file(config: Config, arch: Arch, name: str, made: str = "") -> pathlib.Path:
    """A program of Debian's for the guest, by the script guest-images/NAME."""
    path = config.out / f"{name}-{arch.name}"
    if not path.with_name(path.name + made).exists():
        progress.step(f"{arch.name}: {name}", config.out / f"{path.name}.log",
                      [str(ROOT / "guest-images" / name), arch.deb_arch, str(path)], config.verbose,
                      env=config_.environment())
    return path


def busybox(config: Config, arch: Arch) -> pathlib.Path:
    return debian_file(config, arch, "busybox")


def perf(config: Config, arch: Arch) -> pathlib.Path:
    return debian_file(config, arch, "perf", ".list")


def extra_initramfs(config: Config, arch: Arch, name: str) -> pathlib.Path:
    """initramfs-NAME.cpio: the same programs with a shell, or with perf as well ("profile")."""
    with building(config):
        more = {"PERF": str(perf(config, arch))} if name == "profile" else {}
        make_steps(config, arch, ((f"initramfs-{name}", f"initramfs-{name}"),),
                   BUSYBOX=str(busybox(config, arch)), **more)
    return initramfs(config, arch).with_name(f"initramfs-{name}.cpio")


# --- commands ---

def images(config: Config) -> int:
    build(config)
    return 0


def dist(config: Config) -> int:
    """For machines whose kernel has the series: static programs, the cases, what runs them."""
    build(config)
    with building(config):
        for arch in config.archs:
            make_steps(config, arch, (("tarball", "dist"),))
            print(f"  {config.out}/dist/kvm-fast-only-{arch.name}.tar.gz")
    return 0


def clean(config: Config) -> int:
    if not (pathlib.Path(config.o) / "lock").exists():
        raise BadInput(f"{config.o} was not built by this Makefile; nothing is removed")
    with building(config):
        return subprocess.call(["rm", "-rf", str(config.out)])
