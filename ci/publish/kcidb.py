# SPDX-License-Identifier: GPL-2.0
"""A judged revision for KernelCI's database, format 5.0; ci/kcidb.schema.json has its rules.

A checkout, a build for each architecture, a test for each check of what was built.
"""
import re
from collections.abc import Sequence
from typing import Any

from ci.judge.check import Check, Status

Row = dict[str, Any]

ORIGIN = "kvm_fast_only"
STATES = {Status.PASS: "PASS", Status.SAME: "PASS", Status.KNOWN: "PASS",
          Status.NOT_CHECKED: "SKIP", Status.SKIP: "FAIL", Status.FAIL: "FAIL",
          Status.TIMEOUT: "FAIL", Status.SPLAT: "FAIL", Status.LOST: "ERROR",
          Status.HARNESS: "ERROR", Status.INTERRUPTED: "MISS"}


def report(document: Row, checks: Sequence[Check]) -> Row:
    ident = f"{ORIGIN}:{document['run']}"
    checkout = {"id": ident, "origin": ORIGIN, "start_time": document["time"],
                "valid": good(checks, "apply"), "comment": " ".join(document["subject"].split()),
                "patchset_hash": document["patchset_hash"]}
    message = re.search(r"[^<>\s]+@[^<>\s]+", document["cover_message_id"])
    if message:
        checkout["message_id"] = message[0]
    built = {check.arch for check in checks if check.tool in ("build", "base")}
    builds = [{"id": f"{ident}-{arch}", "checkout_id": ident, "origin": ORIGIN,
               "architecture": arch, "compiler": document.get("compilers", {}).get(arch, ""),
               "status": "PASS" if good(checks, "build", arch) else "FAIL"}
              for arch in document["archs"] if arch in built]
    tests = [{"id": f"{ident}-{n}", "build_id": f"{ident}-{check.arch}", "origin": ORIGIN,
              "status": STATES[check.status], "path": path_of(check),
              "comment": check.summary[:200]}
             for n, check in enumerate(checks) if check.arch in built]
    return {"version": {"major": 5, "minor": 0}, "checkouts": [checkout], "builds": builds,
            "tests": tests}


def good(checks: Sequence[Check], tool: str, arch: str = "") -> bool:
    return all(check.status.good for check in checks if (check.tool, check.arch) == (tool, arch))


def path_of(check: Check) -> str:
    where = f"patch{check.patch:02}" if check.patch else "series"
    tool = re.sub(r"[^a-z0-9]+", "_", check.tool.lower()).strip("_")
    return f"{ORIGIN}.{where}.{tool}"
