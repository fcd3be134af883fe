# SPDX-License-Identifier: GPL-2.0
"""The knobs of the command line and the environment: one field of Config each.

A knob is what make and the environment call it, in lower case.  Nothing else reads the
environment, and nothing writes it: who wants another value has dataclasses.replace() make
another Config.
"""
import dataclasses
import difflib
import functools
import os
import pathlib
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ci.facts import arch as arch_
from ci.facts import base as base_
from ci.facts.text import ROOT, BadInput

# Knobs that a case reads itself, from the guest's command line: see selftests/README.md.
FOR_CASES = ("seed", "stress", "ops")
# Of whoever calls us, and no business of what we call
FOREIGN = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "CDPATH")


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def patterns(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError("want a whole number")
    return int(text)


def maybe(text: str) -> int | None:
    return number(text) if text else None


def count(text: str) -> int:
    """0: not given."""
    return positive(text) if text else 0


def positive(text: str) -> int:
    if number(text) == 0:
        raise ValueError("want a whole number above 0")
    return int(text)


def numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted({positive(word) for word in text.split()}))


def switch(text: str) -> bool:
    if text not in ("", "0", "1"):
        raise ValueError("choose 1, or leave it unset")
    return text == "1"


def one_of(*choices: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in choices:
            raise ValueError("choose " + ", ".join(filter(None, choices)))
        return text
    return check


def path(text: str) -> str:
    if len(text.split()) != 1:
        raise ValueError("no spaces, and not empty; name another place")
    return text


def knob(default: str, text: str, parse: Callable[[str], Any] = str, again: bool = False,
         alias: str = "") -> Any:
    """A field: @text is its line of make help ("": it shares the next one's).

    again: a command that repeats a case has to repeat it.
    """
    return dataclasses.field(default=parse(default), metadata={
        "default": default, "text": text, "parse": parse, "again": again, "alias": alias})


def hidden(default: str, parse: Callable[[str], Any] = str) -> Any:
    """For the harness' own tests."""
    return knob(default, "-", parse)


@dataclasses.dataclass(frozen=True)
class Config:
    arch: tuple[str, ...] = knob("", "x86, arm64; unset: both", words)
    mode: tuple[str, ...] = knob("", "npt legacy shadow; vhe nvhe nogic protected; unset: all, "
                                 "or the first", words)
    cases: tuple[str, ...] = knob("", "shell patterns: the cases, or the modes of bench and scale",
                                  patterns)
    series: str = knob("patched", "patched; base: without the series; with KERNEL=: a range A..B",
                       again=True)
    base: str = knob("", "v6.12, mainline: the kernel and its series, in kernel-patches/",
                     again=True)
    kernel: str = knob("", "a git tree of Linux, whose HEAD is taken instead of the base's kernel")
    config: str = knob("", "debug: KASAN, lockdep, kmemleak, 5x slower; or another "
                       "of guest-images/", again=True)
    accel: str = knob("tcg", "tcg; kvm: on a host with nested virtualisation",
                      one_of("tcg", "kvm"), again=True)
    qemu: str = knob("", "a binary instead of the architecture's", again=True)
    cpus: int = knob("2", "", positive, again=True)
    timeout: int = knob("0", "of the guest; seconds a case, instead of its own limit", number,
                        again=True)
    seed: int | None = knob("", "", maybe, again=True)
    stress: int | None = knob("", "", maybe, again=True)
    ops: int | None = knob("", "of random cases: seed, seconds of stress, number of ioctls", maybe,
                           again=True)
    full: bool = knob("", "scale: 1 is all modes to 32 vCPUs, three boots each (half an hour)",
                      switch)
    vcpus: tuple[int, ...] = knob("", "", numbers)
    boots: int = knob("", "", count)
    resume: str = knob("", "scale: other numbers of both; a run in results/ to go on with")
    revision: str = knob("", "", alias="OF")
    against: str = knob("", "revision: this series and the one before: directory, mailbox, git "
                        "revision")
    patches: str = knob("", "", str)
    matrix: str = knob("", "revision: only these patches, as \"3 5-7\"; all: slow cells too",
                       one_of("", "all"))
    mutants: tuple[str, ...] = knob("", "shell patterns: the defects of check-mutants, -bench, "
                                    "-revision", patterns)
    v: str = knob("0", "1: verbose; series: its number")
    jobs: int = knob("", "", count)
    llvm: str = knob("", "", again=True)
    cross_compile: str = knob("", "of builds, as for the kernel", again=True)
    o: str = knob("build", "", path, again=True)
    cache: str = knob("", "", str)
    results: str = knob("", "where builds go (5 GB a base), what is kept by content, and results")
    # Seconds from the start of QEMU to the plan; emulated guests take 2 to 4.
    boot_seconds: int = hidden("90", number)
    # On top of the limit that the guest itself enforces for a case, and from the end record to
    # the end of QEMU.  init.c takes 20 s to give up on a case it can't kill.
    grace_seconds: int = hidden("45", number)
    # A run leaves some MiB; below this, QEMU would cut its files off silently.
    min_free_mb: int = hidden("64", number)
    cases_file: str = hidden("")
    images: str = hidden("")   # what make images has left elsewhere: build nothing
    base_only: bool = hidden("", switch)   # what the series is compared with

    def __post_init__(self) -> None:
        """What is said nowhere has a value that depends on the rest."""
        self._default("base", base_.FOR_KERNEL if self.kernel else base_.DEFAULT)
        self._default("jobs", len(os.sched_getaffinity(0)))
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        self._default("cache", f"{cache}/kvm-fast-only")
        self._default("results", "results" if self.o == "build" else f"{self.o}/results")
        check(self)

    def _default(self, name: str, value: object) -> None:
        if not getattr(self, name):
            object.__setattr__(self, name, value)

    @property
    def archs(self) -> list[arch_.Arch]:
        return [arch_.load(name) for name in self.arch or arch_.names()]

    @property
    def patched(self) -> bool:
        return self.series != "base" and not self.base_only

    @property
    def series_name(self) -> str:
        """What images are called: a range of somebody's commits is a series too."""
        return "patched" if self.patched else "base"

    @property
    def range(self) -> str:
        """Commits of KERNEL= that are the series, as A..B, or ""."""
        return self.series if ".." in self.series else ""

    @functools.cached_property
    def base_facts(self) -> base_.Base:
        return base_.load(self.base)

    @functools.cached_property
    def kernel_config(self) -> arch_.KernelConfig:
        return arch_.load_config(self.config)

    @property
    def out(self) -> pathlib.Path:
        """Where trees and images of this kernel are."""
        return pathlib.Path(self.o) / ("kernel" if self.kernel else self.base)

    @property
    def verbose(self) -> bool:
        return self.v == "1"

    def given(self, *more: str) -> list[str]:
        """NAME=value of what a command has to repeat, and of the fields @more, quoted."""
        fields = [field for field in dataclasses.fields(self)
                  if field.metadata["again"] or field.name in (*more, "kernel")]
        changed = [(field, text_of(getattr(self, field.name))) for field in fields
                   if getattr(self, field.name) != self.usual(field)]
        return [shlex.quote(f"{field.name.upper()}={text}") for field, text in changed]

    def usual(self, field: "dataclasses.Field[Any]") -> object:
        """The value of a knob that is not given, where KERNEL= is as it is."""
        kernel = "" if field.name == "kernel" else self.kernel
        return getattr(Config(kernel=kernel), field.name)


def text_of(value: object) -> str:
    """As on a command line."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return {None: "", True: "1", False: "0"}.get(value, str(value))  # type: ignore[call-overload]


def names_of(field: "dataclasses.Field[Any]") -> list[str]:
    """In the environment; a hidden one must not be somebody's by accident."""
    prefix = "HARNESS_" if field.metadata["text"] == "-" else ""
    return [name for name in (prefix + field.name.upper(), field.metadata["alias"]) if name]


def known() -> list[str]:
    return [name for field in dataclasses.fields(Config) for name in names_of(field)]


def load(environ: Mapping[str, str] = os.environ) -> Config:
    """From the environment, in which make puts what is on its command line."""
    check_names(environ)
    values: dict[str, Any] = {}
    # make's own -jN
    given = re.search(r"(?:^|\s)-j(\d+)", environ.get("MAKEFLAGS", ""))
    if given:
        values["jobs"] = int(given[1])
    if environ.get("REVISION") and environ.get("OF"):
        raise BadInput("REVISION= and OF= are one knob: give one of them")
    for field in dataclasses.fields(Config):
        name = next((name for name in names_of(field) if environ.get(name)), "")
        if name:
            try:
                values[field.name] = field.metadata["parse"](environ[name])
            except ValueError as error:
                raise BadInput(f"{name}={environ[name]}: {error}") from None
    return Config(**values)


def check_names(environ: Mapping[str, str]) -> None:
    """A knob of make's command line that there is not would be lost without a word."""
    _, _, assigned = environ.get("MAKEFLAGS", "").partition("-- ")
    for name in re.findall(r"(?:^|(?<!\\) )(\w+)[:+?]?=", assigned):
        if name not in known():
            near = difflib.get_close_matches(name, known(), 1)
            raise BadInput(f"{name}=: there is no such knob"
                           + (f"; do you mean {near[0]}=?" if near else "; make help lists them"))


def check(config: Config) -> None:
    """Refuse what cannot be, before anything is built."""
    if len(str(ROOT).split()) != 1:
        raise BadInput(f"the path \"{ROOT}\" has a space in it, which make cannot handle; "
                       "clone to another place")
    object.__setattr__(config, "arch", tuple(dict.fromkeys(
        arch_.ALIASES.get(a, a) for a in config.arch)))
    refuse("ARCH", config.arch, arch_.names(),
           f" (aliases: {' '.join(arch_.ALIASES)}), or leave it unset for all")
    # By name: a path would be one to remove as well
    refuse("BASE", (config.base,), base_.names())
    for name in ("o", "cache", "results", "kernel"):
        if len(getattr(config, name).split()) > 1:
            raise BadInput(f"{name.upper()}={getattr(config, name)}: no spaces; name another place")
    if not config.range or not config.kernel:
        refuse("SERIES", (config.series,), ["patched", "base"], ", or with KERNEL= a range of its "
               "commits, as in HEAD~8..HEAD")
    if config.config and not (arch_.IMAGES / f"{config.config}.config").exists():
        raise BadInput(f"unknown CONFIG={config.config}; there is no "
                       f"guest-images/{config.config}.config")


def refuse(name: str, values: Iterable[str], choices: list[str], more: str = "") -> None:
    wrong = [value for value in values if value not in choices]
    if wrong:
        raise BadInput(f"unknown {name}={' '.join(wrong)}; "
                       f"choose one of: {' '.join(choices)}{more}")


def environment(**more: str) -> dict[str, str]:
    """For what we call: without knobs, make's own variables and git's, which are about others."""
    ours = {*known(), *FOREIGN}
    kept = {name: value for name, value in os.environ.items()
            if name not in ours and not name.startswith("GIT_")}
    return {**kept, **more}


def help_lines() -> list[str]:
    """A line a knob, or for several that share one."""
    lines, heads = [], []
    for field in dataclasses.fields(Config):
        if field.metadata["text"] == "-":
            continue
        heads.append(field.name.upper())
        if field.metadata["text"]:
            lines.append(f"  {', '.join(heads):<22} {field.metadata['text']}")
            heads = []
    return lines
