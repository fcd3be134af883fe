# SPDX-License-Identifier: GPL-2.0
"""Machines for the harness' own tests: a stand-in for QEMU, and images that it does not read."""
import dataclasses
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

import pytest

from ci import config as config_
from ci.boot.request import Request
from ci.build.source import Source
from ci.config import Config
from ci.facts import arch as arch_
from ci.facts import base
from ci.facts.text import ROOT

QEMU = str(ROOT / "ci" / "tests" / "fixtures" / "qemu")
# Two tests of ours; of upstream's, the base is asked as well.
CASES = "first all - 30 memslot_flag_test\nsecond all - 30 memslot_flag_test\n"
UPSTREAM = CASES.replace("memslot_flag_test", "a_program")
# Faults that are waited for end within these and a little.
MOST_SECONDS = 15


class Machines:
    """A directory with images, as make leaves them, and runs of it."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        for series in ("patched", "base"):
            images = root / "out" / series
            images.mkdir(parents=True)
            for kind, text in (("kernel", series), ("config", ""), ("compiler", "cc"),
                               ("release", "1.2.3")):
                (images / f"x86.{kind}").write_text(text)
        programs = root / "out" / "programs" / "x86"
        programs.mkdir(parents=True)
        (programs / "initramfs.cpio").write_text("")
        (root / "out" / "host_ticks").symlink_to("/bin/true")
        self.cases(CASES)

    def cases(self, text: str) -> None:
        (self.root / "cases").write_text(text)

    def knobs(self) -> dict[str, str]:
        return {"images": str(self.root / "out"), "cases_file": str(self.root / "cases"),
                "results": str(self.root / "results"), "o": str(self.root / "o"),
                "cache": str(self.root / "cache"), "qemu": QEMU}

    def config(self, **more: Any) -> Config:
        knobs: dict[str, Any] = {**self.knobs(), "arch": ("x86",), "mode": ("npt",), **more}
        return Config(**knobs)

    def environment(self, fate: str, **more: str) -> dict[str, str]:
        """Nobody's own: what a person has set would be another test."""
        names = {field.name: config_.names_of(field)[0] for field in dataclasses.fields(Config)}
        knobs = {names[name]: value for name, value in self.knobs().items()}
        # A start takes half the time with byte code, which goes where the tests' files do.
        python = {"PYTHONDONTWRITEBYTECODE": "",
                  "PYTHONPYCACHEPREFIX": str(self.root.parent / "pycache")}
        return config_.environment(**{"FAKE_QEMU": fate, "ARCH": "x86", "MODE": "npt", **python,
                                      **knobs, **more})

    def start(self, fate: str, *argv: str, **more: str) -> "subprocess.Popen[str]":
        return subprocess.Popen([sys.executable, *(argv or ("-m", "ci", "check"))], cwd=ROOT,
                                env=self.environment(fate, **more), text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def check(self, fate: str, *argv: str, **more: str) -> tuple[int, str, str]:
        """(exit status, stdout, stderr) of make check."""
        process = self.start(fate, *argv, **more)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def meta(self) -> dict[str, Any]:
        path, = self.root.glob("results/2*/x86-npt/meta.json")
        return json.loads(path.read_text())  # type: ignore[no-any-return]

    def text_of(self, name: str) -> str:
        path = next(self.root.glob(f"results/2*/x86-npt/{name}"), None)
        return path.read_text(errors="replace") if path else ""

    def wait_for(self, name: str, text: str = "") -> None:
        """Until a file of the boot is there and says so, and a moment more."""
        deadline = time.monotonic() + 3 * MOST_SECONDS
        while not list(self.root.glob(f"results/2*/x86-npt/{name}")) or (
                text not in self.text_of(name)):
            assert time.monotonic() < deadline, name
            time.sleep(0.02)
        time.sleep(0.2)

    def assert_no_qemu(self) -> None:
        deadline = time.monotonic() + 2
        while left := self.processes():
            assert time.monotonic() < deadline, left
            time.sleep(0.02)

    def processes(self) -> list[pathlib.Path]:
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
            try:
                if str(self.root).encode() in path.read_bytes():
                    found.append(path)
            except OSError:
                continue
        return found


@pytest.fixture
def machines(tmp_path: pathlib.Path) -> Machines:
    return Machines(tmp_path)


def make_request(arch: str = "x86", **more: Any) -> Request:
    """A request for nothing that is there."""
    machine = arch_.load(arch)
    default: dict[str, Any] = {
        "arch": machine, "mode": machine.modes[0], "kind": "tests", "cases": (),
        "kernel": pathlib.Path("kernel"), "initramfs": pathlib.Path("initramfs"),
        "host_ticks": pathlib.Path("/bin/true"), "release": "1.2.3", "qemu": QEMU,
        "source": Source(base.load(base.DEFAULT), "patched", "", (), "12345678", "5e1e5")}
    return Request(**{**default, **more})
