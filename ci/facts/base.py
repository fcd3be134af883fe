# SPDX-License-Identifier: GPL-2.0
"""A base: the kernel that a series of kernel-patches/ is for."""
import dataclasses
import pathlib

from ci.facts.text import ROOT, BadInput, facts

PATCHES = ROOT / "kernel-patches"
# The kernel that the series is for, if none is named; and whose patches go onto KERNEL=
DEFAULT, FOR_KERNEL = "v6.12", "mainline"


@dataclasses.dataclass(frozen=True)
class Base:
    name: str
    directory: pathlib.Path
    package: str       # Debian's, with the kernel's source
    tarball: pathlib.Path
    tested: str        # the version last tested
    suite: str = ""    # of Debian, that the package is fetched from
    lacks: frozenset[str] = frozenset()  # cases, and architecture/modes, that it has nothing for

    @property
    def patches(self) -> list[pathlib.Path]:
        """In order, without the cover letter: no kernel depends on that."""
        found = sorted(self.directory.glob("*.patch"))
        return [path for path in found if not path.name.startswith("0000-")]

    @property
    def results(self) -> pathlib.Path:
        """Where what is committed of its results is."""
        return ROOT / "results" / ("" if self.name == DEFAULT else self.name)


def names() -> list[str]:
    """The directories of kernel-patches/ that a kernel goes with; the default one first."""
    found = (path.parent.name for path in PATCHES.glob("*/base"))
    return sorted(found, key=lambda name: (name != DEFAULT, name))


def load(name: str) -> Base:
    have = facts(PATCHES / name / "base")
    try:
        return Base(name, PATCHES / name, have["package"], pathlib.Path(have["tarball"]),
                    have["tested"], have.get("suite", ""),
                    frozenset(have.get("lacks", "").split()))
    except KeyError as missing:
        raise BadInput(f"{PATCHES / name / 'base'}: no line for {missing}") from None
