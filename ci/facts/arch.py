# SPDX-License-Identifier: GPL-2.0
"""An architecture and a kernel configuration, as the facts in guest-images/."""
import dataclasses
import pathlib

from ci.facts.text import ROOT, BadInput, facts

IMAGES = ROOT / "guest-images"
ALIASES = {"x86_64": "x86", "aarch64": "arm64"}


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
    deb_arch: str
    kvm_tests: str
    qemu: str
    machine: str
    cpu_tcg: str
    cpu_kvm: str
    append: str
    append_tcg: str
    append_lockstep: str
    page_size: int
    scale_tcg: int
    modes: tuple[Mode, ...]

    def mode(self, name: str) -> Mode:
        for mode in self.modes:
            if mode.name == name:
                return mode
        raise BadInput(f"MODE={name}: {self.name} has: {' '.join(m.name for m in self.modes)}")


@dataclasses.dataclass(frozen=True)
class KernelConfig:
    """What goes with a kernel configuration of CONFIG=, if it is not the usual one."""
    name: str = ""
    append: str = ""
    scale: int = 1         # of time limits, on top of the architecture's
    memory_mb: int = 2048  # dirty_log_test maps 1 GiB and a bitmap beside it
    proof: str = ""        # on the console of each run that ends well

    @property
    def suffix(self) -> str:
        """Of the files of a kernel that is configured so."""
        return f"-{self.name}" if self.name else ""


def names(images: pathlib.Path = IMAGES) -> list[str]:
    """The architectures: guest-images has a file of facts for each."""
    return sorted(path.stem for path in images.glob("*.mk") if path.stem != "guest")


def load(name: str, images: pathlib.Path = IMAGES) -> Arch:
    path = images / f"{name}.mk"
    if not path.exists():
        raise BadInput(f"no architecture {name}: {path} does not exist")
    have = facts(path)
    try:
        modes = tuple(load_mode(mode, have) for mode in have["modes"].split())
        numbers = {key: int(have[key]) for key in ("page_size", "scale_tcg")}
        texts = {field.name: have[field.name] for field in dataclasses.fields(Arch)
                 if field.name not in ("name", "modes", *numbers)}
    except KeyError as missing:
        raise BadInput(f"{path}: no line for {missing}") from None
    except ValueError as wrong:
        raise BadInput(f"{path}: {wrong}") from None
    return Arch(name=name, modes=modes, **texts, **numbers)  # type: ignore[arg-type]


def load_mode(name: str, have: dict[str, str]) -> Mode:
    return Mode(name, have[f"mode_{name}"], have[f"proof_{name}"],
                have.get(f"threads_{name}", "multi"), have.get(f"without_{name}", ""),
                name in have.get("named", "").split())


def load_config(name: str, images: pathlib.Path = IMAGES) -> KernelConfig:
    path = images / f"{name}.facts"
    if not name or not path.exists():
        return KernelConfig(name)
    have = facts(path)
    try:
        return KernelConfig(name, have["append"], int(have["scale"]), int(have["memory_mb"]),
                            have.get("proof", ""))
    except (KeyError, ValueError) as error:
        raise BadInput(f"{path}: want append, scale and memory_mb: {error}") from None
