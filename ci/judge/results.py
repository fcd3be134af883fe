# SPDX-License-Identifier: GPL-2.0
"""A run: some boots, their directory below results/, and what is said at its end."""
import collections
import dataclasses
import fcntl
import os
import pathlib
import re
import shutil
import time
from typing import Any

from ci.boot import ktap, watch
from ci.boot import request as request_
from ci.boot.request import Outcome, Request
from ci.build.files import read_json, render, write_json
from ci.config import Config
from ci.facts import cases as cases_
from ci.facts.text import ROOT, BadInput
from ci.judge import splats, verdict
from ci.judge.check import Check, Status, worst

SUMMARY = ROOT / "ci/judge/templates/summary.txt.j2"
# Of a log, below a finding
EXCERPT, EXCERPT_COLUMNS = 6, 100
DISK_IS_FULL = "the disk is full: make room, run again"


@dataclasses.dataclass
class Boot:
    request: Request
    directory: pathlib.Path
    outcome: Outcome
    findings: list[Check]
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def verdict(self) -> Status:
        return worst(self.findings)

    def tally(self) -> collections.Counter[str]:
        """Results as judged: an expected skip is one, a wrong pass a failure; so is the machine."""
        words = {result.name: result.status for result in self.outcome.stream.results}
        known = [finding for finding in self.findings if finding.status == Status.KNOWN]
        words |= {finding.case: "known" for finding in known}
        words |= {finding.case: "failed" for finding in self.findings if finding not in known}
        return collections.Counter(words.values())

    def count(self, status: str) -> int:
        return self.tally()[status]

    def counts(self) -> str:
        known = f", {self.count('known')} known" if self.count("known") else ""
        return (f"{self.count('pass')} passed, {self.count('failed')} failed, "
                f"{self.count('skip')} skipped{known}")


class Run:
    """The directory of a run, and the boots in it."""

    def __init__(self, config: Config, what: str, resume: pathlib.Path | None = None) -> None:
        """@resume: the directory of a run that was cut off, instead of a new one."""
        self.config = config
        self.boots: list[Boot] = []
        self.policy, self.known = splats.load_policy(), cases_.load_known()
        self.directory = resume.resolve() if resume else new_directory(
            pathlib.Path(config.results), f"{time.strftime('%Y%m%d-%H%M%S')}-{what}")
        self.lock = lock_directory(self.directory)
        for name in ("table.txt", "table.json"):
            (self.directory / name).unlink(missing_ok=True)
        make_latest(self.directory)
        self.unfinished: Request | None = None  # if it stays, the run was cut off

    def boot(self, request: Request) -> Boot:
        self.unfinished = request
        directory = self.directory / request.directory
        boot = finished_boot(request, directory, request_.identity(request))
        if not boot:
            shutil.rmtree(directory, ignore_errors=True)
            meta = request_.metadata(request)
            boot = self.boot_anew(request, directory)
            boot.meta = meta
            save_verdict(boot)
        self.boots.append(boot)
        self.unfinished = None
        print(f"  {request.name:<14} {boot.outcome.seconds:4.0f} s  {boot.counts()}", flush=True)
        if boot.verdict == Status.INTERRUPTED:
            raise KeyboardInterrupt
        return boot

    def trial(self, request: Request, directory: pathlib.Path) -> Boot:
        """A boot that is a question asked on the way: not one of the run's results."""
        boot = self.boot_anew(request, directory)
        if boot.verdict == Status.INTERRUPTED:
            raise KeyboardInterrupt
        return boot

    def boot_anew(self, request: Request, directory: pathlib.Path) -> Boot:
        directory.mkdir(parents=True)
        if self.disk_is_full(directory):
            raise BadInput(f"less than {self.config.min_free_mb} MiB free in {directory}: make "
                           "room")
        return self.judge(request, directory, watch.run(request, directory))

    def judge(self, request: Request, directory: pathlib.Path, outcome: Outcome) -> Boot:
        console = directory / "console.log"
        text = console.read_text(errors="replace") if console.exists() else ""
        findings = verdict.judge(request, outcome, text, self.policy, self.known)
        if self.disk_is_full(directory):
            findings.append(Check(Status.HARNESS, DISK_IS_FULL))
        return Boot(request, directory, outcome, findings)

    def disk_is_full(self, directory: pathlib.Path) -> bool:
        return shutil.disk_usage(directory).free < self.config.min_free_mb << 20

    def finish(self, table: str) -> int:
        """The last screen of a measurement, with its table; returns the exit status."""
        if table:
            (self.directory / "table.txt").write_text(table)
            print("\n" + table)
        for boot in self.boots:
            save_verdict(boot)
        return self.summary()

    def summary(self) -> int:
        """The last screen; returns the exit status."""
        cut_off = [Check(Status.HARNESS)] if self.unfinished or not self.boots else []
        status = worst(cut_off + [finding for boot in self.boots for finding in boot.findings])
        count = collections.Counter(failed=len(cut_off))
        for boot in self.boots:
            count += boot.tally()
        print(render(SUMMARY, run=self, count=count, status=status, excerpt=excerpt, repeat=repeat),
              end="", flush=True)
        return status.exit_status


def repeat(config: Config, request: Request, finding: Check) -> str:
    """The one command that repeats just this."""
    words = ["make", "check" if request.kind == "tests" else request.kind,
             f"ARCH={request.arch.name}", f"MODE={request.mode.name}", *config.given()]
    words += [f"VCPUS={request.lockstep.vcpus}"] if request.lockstep else []
    words += [f"CASES={finding.case}"] if finding.case else []
    return " ".join(words)


def excerpt(log: str) -> list[str]:
    """The last lines of FILE, or up to FILE:LINE: who reads a report may not have the file."""
    name, _, number = log.rpartition(":")
    path, last = (name, int(number)) if number.isdigit() else (log, None)
    try:
        lines = pathlib.Path(path).read_text(errors="replace").splitlines()[:last]
    except OSError:
        return []
    return [line[:EXCERPT_COLUMNS] for line in lines[-EXCERPT:]]


def new_directory(results: pathlib.Path, name: str, number: int = 1) -> pathlib.Path:
    results.mkdir(parents=True, exist_ok=True)
    directory = results / (f"{name}-{number}" if number > 1 else name)
    try:
        directory.mkdir()
    except FileExistsError:  # another run of the same second
        return new_directory(results, name, number + 1)
    return directory


def make_latest(directory: pathlib.Path) -> None:
    """By renaming, since two runs may start at once."""
    link = directory / "latest"
    link.unlink(missing_ok=True)
    link.symlink_to(directory.name)
    link.replace(directory.parent / "latest")


def lock_directory(directory: pathlib.Path) -> int:
    """To be held as long as the run goes on: two would take each other's boots away."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BadInput(f"{directory}: that run is still under way") from None
    return descriptor


def check_resume(config: Config, what: str) -> pathlib.Path | None:
    """The directory that RESUME= names, or None."""
    path = pathlib.Path(config.resume)
    if not config.resume:
        return None
    if not (path.is_dir() and re.fullmatch(rf"\d+-\d+-{what}(-\d+)?", path.resolve().name)):
        raise BadInput(f"RESUME={path}: not the directory of a run of make {what}")
    return path


def save_verdict(boot: Boot) -> None:
    """Partial results are kept too, and say so: the verdict is part of the metadata."""
    boot.meta |= {
        "verdict": boot.verdict.word, "seconds": round(boot.outcome.seconds, 1),
        "findings": [{"verdict": finding.status.word, "case": finding.case,
                      "text": finding.summary, "where": finding.where}
                     for finding in boot.findings],
        "results": [{"name": result.name, "status": result.status, "reason": result.reason}
                    for result in boot.outcome.stream.results]}
    write_json(boot.directory / "meta.json", boot.meta)


def read_boot(request: Request, directory: pathlib.Path, meta: dict[str, Any]) -> Boot:
    """A boot that went well, from what it has left."""
    stream = ktap.parse((directory / "tests.ktap").read_text(errors="replace"))
    return Boot(request, directory, Outcome(stream, "exited", "", meta["seconds"]), [], meta)


def finished_boot(request: Request, directory: pathlib.Path,
                  identity: dict[str, Any]) -> Boot | None:
    """The Boot that passed before the run was cut off, as it was judged then, or None."""
    try:
        meta = read_json(directory / "meta.json")
    except (FileNotFoundError, ValueError):  # there is none, or not a whole one
        return None
    if meta.get("verdict") != Status.PASS.word:
        return None
    changed = [key for key, value in identity.items() if meta.get(key) != value]
    if changed:
        raise BadInput(f"{directory}/meta.json was measured with another {', '.join(changed)}: "
                       "start anew, without RESUME=")
    return read_boot(request, directory, meta)
