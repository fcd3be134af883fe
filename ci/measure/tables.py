# SPDX-License-Identifier: GPL-2.0
"""The tables of make bench, scale and profile: table.json of a run, and its text.

Each of these commands writes one document; table.txt, stages.txt, README and cover letter are
rendered from it.  Nothing parses text.
"""
import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from ci.build import files
from ci.facts.text import ROOT, BadInput
from ci.judge.check import Check, Status
from ci.judge.results import Boot, Run

Row = dict[str, Any]
Document = dict[str, Any]

TEMPLATES = ROOT / "ci" / "measure" / "templates"
MEANING = {"bench": ("instructions per fault", "exact count"),
           "scale": ("pages per million instructions of critical path, all vCPUs",
                     "lockstep model"),
           "profile": ("events of a fault", "lockstep model")}
IDENTITY = ("base", "release", "compiler", "qemu", "series_sha256", "initramfs_sha256")


def passed(boot: Boot) -> dict[str, str]:
    """{mode: its output}"""
    return {r.name: r.output for r in boot.outcome.stream.results if r.status == "pass"}


@contextlib.contextmanager
def problems(boot: Boot, where: str, before: str = "", case: str = "") -> Iterator[None]:
    """What is wrong with what a boot has left becomes a finding of the boot."""
    try:
        yield
    except (BadInput, OSError, ValueError, KeyError, ZeroDivisionError) as error:
        boot.findings.append(Check(Status.HARNESS, f"{before}{error}", case, where))


def document(command: str, boots: Iterable[Boot], machines: list[Row], **more: Any) -> Document:
    """table.json; templates/COMMAND.txt.j2 begins with the keys of a machine and of @more.

    What was not measured is null.  The identity is that of each architecture/mode's first boot.
    """
    first: dict[str, Row] = {}
    for boot in boots:
        first.setdefault(boot.request.name, boot.meta)
    unit, label = MEANING[command]
    identity = [dict({key: meta.get(key) for key in IDENTITY}, name=name)
                for name, meta in first.items()]
    return {"command": command, "unit": unit, "label": label, "identity": identity,
            "machines": machines, **more}


def finish(run: Run, found: Document) -> int:
    """The last screen of a measurement, whose document is kept; returns the exit status."""
    text = render(found)
    if text:
        files.write_json(run.directory / "table.json", found)
    return run.finish(text)


def render(found: Document) -> str:
    """table.txt of a document; "" if nothing was measured."""
    return text_of(found["command"], found)


def stages(found: Document) -> str:
    """stages.txt of a document of make bench."""
    return text_of("stages", found)


def text_of(template: str, found: Document) -> str:
    """Templates need not care for what ends a line or parts paragraphs."""
    text = files.render(TEMPLATES / f"{template}.txt.j2", **found, number=number)
    text = re.sub(r" +$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\n{3,}", "\n\n", text).strip("\n")
    return text + "\n" if text else ""


def number(value: float | None, form: str = "%.0f") -> str:
    return "-" if value is None else form % value


def identity_lines(found: Document) -> list[str]:
    """What was measured, for a table that leaves its run."""
    return [f"{one['name']}: {one['release']}, {one['compiler']}, {one['qemu']}"
            for one in found["identity"]]
