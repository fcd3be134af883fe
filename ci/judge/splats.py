# SPDX-License-Identifier: GPL-2.0
"""Find on a guest's console what the kernel complained about; policy: ci/splats."""
import functools
import pathlib
import re
from collections.abc import Iterator

from ci.facts.text import ROOT, BadInput, rows
from ci.judge.check import Check, Status

CASE = re.compile(r"init: case (\w+)")
TIME = re.compile(r"^\[ *\d+\.\d+\] ")
STACK = re.compile(r"\bCall [Tt]race:")
STACK_LINES = 4  # from a message that is excused to the head of its stack
KINDS = ("deny", "allow", "excuse")

# Patterns of each kind
Policy = tuple[list[re.Pattern[str]], list[re.Pattern[str]], list[re.Pattern[str]]]


def load_policy(path: pathlib.Path = ROOT / "ci" / "splats") -> Policy:
    lists: Policy = ([], [], [])
    for where, line in rows(path):
        kind, _, pattern = line.partition(" ")
        if kind not in KINDS or not pattern.strip():
            raise BadInput(f"{where}: want \"deny PATTERN\", \"allow PATTERN\" or "
                           "\"excuse PATTERN\"")
        # Space before a pattern is layout, space after it is part of it.
        lists[KINDS.index(kind)].append(re.compile(pattern.lstrip()))
    if not lists[0]:
        raise BadInput(f"{path}: nothing is denied, so a scan would find nothing")
    return lists


def scan(text: str, policy: Policy) -> Iterator[Check]:
    """Each splat, with the case that was running."""
    @functools.lru_cache(maxsize=4096)  # a guest can say the same a million times
    def matches(message: str) -> tuple[bool, ...]:
        return tuple(any(pattern.search(message) for pattern in kind) for kind in policy)
    case, excused = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        started = CASE.search(line)
        case = started[1] if started else case
        denied, allowed, excuses = matches(TIME.sub("", line, 1))
        if excuses:
            excused = number + STACK_LINES
        elif denied and number <= excused and STACK.search(line):
            excused = 0
        elif denied and not allowed:
            yield Check(Status.SPLAT, line.strip(), case, f"console.log:{number}")
