# SPDX-License-Identifier: GPL-2.0
"""Find on a guest's console what the kernel complained about; policy: ci/splats."""
import dataclasses
import re

from ci.facts.arch import ROOT, BadInput

CASE = re.compile(r"init: case (\w+)")
STACK = re.compile(r"\bCall [Tt]race:")


@dataclasses.dataclass(frozen=True)
class Splat:
    line: int   # on the console
    case: str   # that was running, or "" before the first
    text: str


STACK_LINES = 4  # from a message that is excused to the head of its stack


def load_policy(path=ROOT / "ci" / "splats"):
    """(deny, allow, excuse).  No deny list means that nothing was checked: an error."""
    lists = {"deny": [], "allow": [], "excuse": []}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        kind, _, pattern = line.partition(" ")
        if kind not in lists or not pattern.strip():
            raise BadInput(f"{path}:{number}: want \"deny PATTERN\", \"allow PATTERN\" or \"excuse PATTERN\"")
        # Space before a pattern is layout, space after it is part of it.
        lists[kind].append(re.compile(pattern.lstrip()))
    if not lists["deny"]:
        raise BadInput(f"{path}: nothing is denied, so a scan would find nothing")
    return lists["deny"], lists["allow"], lists["excuse"]


def scan(text, policy):
    deny, allow, excuse = policy
    case, found, excused = "", [], 0
    for number, line in enumerate(text.splitlines(), 1):
        started = CASE.search(line)
        if started:
            case = started[1]
        if any(p.search(line) for p in excuse):
            excused = number + STACK_LINES
        elif STACK.search(line) and number <= excused:
            excused = 0
        elif any(p.search(line) for p in deny) and not any(p.search(line) for p in allow):
            found.append(Splat(number, case, line.strip()))
    return found
