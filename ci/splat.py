# SPDX-License-Identifier: GPL-2.0
"""Find on a guest's console what the kernel complained about; policy: ci/splats."""
import dataclasses
import re

from arch import ROOT, BadInput

CASE = re.compile(r"init: case (\w+)")


@dataclasses.dataclass(frozen=True)
class Splat:
    line: int   # on the console
    case: str   # that was running, or "" before the first
    text: str


def load_policy(path=ROOT / "ci" / "splats"):
    """(deny, allow).  No deny list means that nothing was checked: an error."""
    lists = {"deny": [], "allow": []}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        kind, _, pattern = line.partition(" ")
        if kind not in lists or not pattern.strip():
            raise BadInput(f"{path}:{number}: want \"deny PATTERN\" or \"allow PATTERN\"")
        # Space before a pattern is layout, space after it is part of it.
        lists[kind].append(re.compile(pattern.lstrip()))
    if not lists["deny"]:
        raise BadInput(f"{path}: nothing is denied, so a scan would find nothing")
    return lists["deny"], lists["allow"]


def scan(text, policy):
    deny, allow = policy
    case, found = "", []
    for number, line in enumerate(text.splitlines(), 1):
        started = CASE.search(line)
        if started:
            case = started[1]
        if any(p.search(line) for p in deny) and not any(p.search(line) for p in allow):
            found.append(Splat(number, case, line.strip()))
    return found
