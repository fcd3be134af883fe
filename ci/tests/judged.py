# SPDX-License-Identifier: GPL-2.0
"""For the tests of what is published: a revision that was judged."""
from typing import Any

FIELDS = ("patch", "arch", "tool", "status", "summary", "log", "repeat")
CHECKS = (
    (1, "", "checkpatch", "pass"), (1, "x86", "boot", "pass", "60 cases pass"),
    (1, "arm64", "boot", "same", "the same images"),
    (2, "x86", "build", "fail", "error: no", "results/x/log", "make revision PATCHES=2 ARCH=x86"),
    (2, "arm64", "boot", "splat", "WARNING: at mmu.c " + "x" * 90, "",
     "make revision PATCHES=2 ARCH=arm64"),
    (0, "x86", "x86-ept", "not-checked", "because"))
GOOD = CHECKS[:3]


def document(checks: Any = CHECKS, **more: Any) -> dict[str, Any]:
    """revision.json"""
    rows = [dict(zip(FIELDS, (*check, "", "", "")[:len(FIELDS)])) for check in checks]
    patches = [{"number": n, "subject": f"KVM: x86: Do {n}", "patch_id": f"{n}" * 40,
                "message_id": "", "since": "", "judged": True} for n in (1, 2)]
    return {"version": 1, "verdict": "fail", "run": "20260101-000000-revision",
            "time": "2026-01-01T00:00:00Z", "repository": "abc",
            "base": {"package": "linux-source", "tested": "1"}, "of": "here", "against": "",
            "subject": "[PATCH v3 0/2] KVM: Do both", "cover_message_id": "<1@example.org>",
            "patchset_hash": "0" * 64, "revision": 3, "at_the_end": "long_*",
            "archs": ["arm64", "x86"], "patches": patches, "dropped": [], "checks": rows,
            "command": "make revision", **more}
