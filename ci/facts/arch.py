# SPDX-License-Identifier: GPL-2.0
"""An architecture, as the facts in guest-images/NAME.mk."""
import dataclasses
import os
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FACT = re.compile(r"(\w+)\s*=\s*(.*)")


class BadInput(Exception):
    """What the user gave cannot be used; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Mode:
    name: str
    append: str  # boot parameters that ask for the mode
    proof: str   # regular expression; on the console if and only if it was obtained
    threads: str = "multi"  # of TCG: "multi", or "single" where several go wrong
    without: str = ""       # node and property that the device tree lacks
    named: bool = False     # only for the cases that name it


@dataclasses.dataclass(frozen=True)
class Arch:
    name: str
    kernel_arch: str
    cross: str
    qemu: str
    machine: str
    cpu_tcg: str
    cpu_kvm: str
    append: str
    append_tcg: str
    append_lockstep: str
    page_size: int
    scale_tcg: int
    modes: tuple


@dataclasses.dataclass(frozen=True)
class Config:
    """What goes with a kernel configuration of CONFIG=, if it is not the usual one."""
    name: str = ""
    append: str = ""
    scale: int = 1        # of time limits, on top of the architecture's
    memory_mb: int = 2048  # dirty_log_test maps 1 GiB and a bitmap beside it
    proof: str = ""       # on the console of each run that ends well


def load_config(name, root=ROOT):
    path = root / "guest-images" / f"{name}.facts"
    if not name or not path.exists():
        return Config(name)
    facts = read_facts(path)
    try:
        return Config(name, facts["append"], int(facts["scale"]), int(facts["memory_mb"]), facts.get("proof", ""))
    except (KeyError, ValueError) as error:
        raise BadInput(f"{path}: want append, scale and memory_mb: {error}") from None


def read_facts(path):
    """The "name = value" lines of a file, as a dict.  Anything else is an error."""
    facts = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = FACT.fullmatch(line)
        if match:
            facts[match[1]] = match[2].strip()
        elif line and not line.startswith("#"):
            raise BadInput(f"{path}:{number}: neither a comment nor \"name = value\": {line}")
    return facts


def bases():
    """The directories of kernel-patches/ that a kernel goes with; the default one first."""
    default = os.environ.get("DEFAULT_BASE") or "v6.12"
    return sorted((path.parent.name for path in (ROOT / "kernel-patches").glob("*/base")), key=lambda name: (name != default, name))


def names(root=ROOT):
    """The architectures: guest-images has a fragment and a file of facts for each."""
    return sorted(path.stem for path in (root / "guest-images").glob("*.mk") if path.stem != "guest")


def load(name, root=ROOT):
    path = root / "guest-images" / f"{name}.mk"
    if not path.exists():
        raise BadInput(f"no architecture {name}: {path} does not exist")
    facts = read_facts(path)
    try:
        modes = tuple(Mode(m, facts[f"mode_{m}"], facts[f"proof_{m}"], facts.get(f"threads_{m}", "multi"),
                           facts.get(f"without_{m}", ""), m in facts.get("named", "").split())
                      for m in facts["modes"].split())
        values = {f.name: f.type(facts[f.name]) for f in dataclasses.fields(Arch)
                  if f.name not in ("name", "modes")}
    except KeyError as missing:
        raise BadInput(f"{path}: no line for {missing}") from None
    except ValueError as wrong:
        raise BadInput(f"{path}: {wrong}") from None
    return Arch(name=name, modes=modes, **values)
