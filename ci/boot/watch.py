# SPDX-License-Identifier: GPL-2.0
"""Boot a guest and follow it to its end.  No opinion on results: see ci/judge/verdict.py."""
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time
from typing import IO

from ci.boot import ktap, qemu
from ci.boot.request import Outcome, Request
from ci.build.progress import LOG_SECONDS, TTY_SECONDS, show

# For whoever has guests in other threads than the one that ctrl-C reaches
STOP = threading.Event()


class Watch:
    """Follow one machine until it ends, with a deadline for whatever it is doing."""

    def __init__(self, request: Request, reports: IO[bytes]) -> None:
        """@reports: tests.ktap, which QEMU writes."""
        self.request, self.reports, self.stream = request, reports, ktap.Stream()
        self.start = self.since = time.monotonic()
        self.stage, self.limit = "booting", request.boot_seconds * request.config.scale
        self.tty, self.shown = sys.stdout.isatty(), 0.0

    def follow(self, process: "subprocess.Popen[bytes]") -> tuple[str, str]:
        """Wait for the end of QEMU.  Returns (how, detail)."""
        while process.poll() is None:
            time.sleep(0.02)
            self.poll()
            if STOP.is_set():
                raise KeyboardInterrupt
            if time.monotonic() - self.since > self.limit:
                return "timeout", f"{self.stage} took longer than {self.limit} s"
        self.poll()
        if process.returncode < 0:
            return "killed", f"QEMU was killed by {signal.Signals(-process.returncode).name}"
        if process.returncode:
            return "killed", f"QEMU exited with status {process.returncode}, see qemu.log"
        return "exited", ""

    def poll(self) -> None:
        self.stream.feed(self.reports.read())
        stage, limit = self.stage, self.request.grace_seconds * self.request.config.scale
        if self.stream.running:
            stage, limit = self.stream.running[0], self.stream.running[1] + limit
        elif self.stream.lines:
            stage = "ending" if self.stream.ended else "between cases"
        if stage != self.stage:
            self.stage, self.limit, self.since = stage, limit, time.monotonic()
        if time.monotonic() - self.shown >= (TTY_SECONDS if self.tty else LOG_SECONDS):
            self.show()

    def show(self) -> None:
        self.shown = now = time.monotonic()
        done, plan = len(self.stream.results), self.stream.plan or len(self.request.cases)
        show(f"  {self.request.name:<14} {now - self.start:4.0f} s  {done}/{plan} done, "
             f"{self.stage} for {now - self.since:.0f} s", self.tty)


def run(request: Request, directory: pathlib.Path) -> Outcome:
    """Boot.  The directory must exist and be empty."""
    argv = qemu.command(request, directory)
    (directory / "command").write_text(shlex.join(argv) + "\n")
    with (open(directory / "qemu.log", "wb") as log,
          open(directory / "tests.ktap", "x+b") as reports):
        watch = Watch(request, reports)
        # However this process dies, QEMU does not outlive it.
        process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *argv],
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   start_new_session=True)
        try:
            how, detail = watch.follow(process)
        except KeyboardInterrupt:
            how, detail = "interrupted", f"interrupted during {watch.stage}"
        finally:
            process.kill()
            process.wait()
    if watch.tty:
        show("", True)
    watch.stream.close()
    return Outcome(watch.stream, how, detail, time.monotonic() - watch.start)
