# SPDX-License-Identifier: GPL-2.0
"""One thing that was found out, of a boot or of a revision."""
import dataclasses
import enum
from collections.abc import Iterable


class Status(enum.Enum):
    """Word and exit status; of several in one run, the last one of this list counts."""
    PASS = "pass", 0                # every case did what it should
    SAME = "same", 0                # as after the patch before
    NOT_CHECKED = "not-checked", 0  # for a reason that is said
    KNOWN = "known", 0              # a test failed as selftests/known-failures says
    SKIP = "skip", 4                # a case that must run was skipped, or a case that may skip
                                    # for another reason than the missing series
    FAIL = "fail", 1                # a test failed
    TIMEOUT = "timeout", 124        # a case or the machine took too long
    SPLAT = "splat", 3              # the kernel complained about itself
    HARNESS = "harness", 2          # the harness or its input: no statement on the kernel
    LOST = "lost", 5                # the machine died: panic, reset, QEMU killed
    INTERRUPTED = "interrupted", 130

    def __init__(self, word: str, exit_status: int) -> None:
        self.word, self.exit_status = word, exit_status

    @property
    def good(self) -> bool:
        return self.exit_status == 0

    @classmethod
    def of(cls, word: str) -> "Status":
        return next(status for status in cls if status.word == word)


GRAVITY = list(Status).index


@dataclasses.dataclass(frozen=True)
class Check:
    status: Status
    summary: str = ""
    case: str = ""    # "" if it is about the machine
    where: str = ""   # file:line below the run's directory, or ""
    patch: int = 0    # 0: the base, or the series as a whole
    arch: str = ""    # "" if it is about none
    tool: str = ""
    repeat: str = ""  # the command


def worst(checks: Iterable[Check]) -> Status:
    return max((check.status for check in checks), key=GRAVITY, default=Status.PASS)


def findings(checks: Iterable[Check]) -> list[Check]:
    """What is bad.  What the kernel did comes before what could not be found out."""
    return sorted((check for check in checks if not check.status.good), key=lambda check: (
        check.status == Status.HARNESS, -GRAVITY(check.status), check.patch or 9999))


def place(check: Check, patches: int) -> str:
    """What it is about; patches: how many the series has."""
    whole = "base" if check.tool == "base" else "series"
    where = f"patch {check.patch}/{patches}" if check.patch else whole
    return " ".join(filter(None, (where, check.arch, check.tool)))
