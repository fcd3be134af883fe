# SPDX-License-Identifier: GPL-2.0
"""For the tests of measurements: a run whose boots are already there."""
import contextlib
import pathlib
import types
from collections.abc import Sequence
from typing import Any

import pytest

from ci.boot import ktap
from ci.config import Config


class FakeRun:
    made: "FakeRun"   # the last one

    def __init__(self, config: Config, what: str, resume: pathlib.Path | None = None):
        self.config, self.directory = config, pathlib.Path(config.results)
        self.boots: list[Any] = []
        self.table = ""
        FakeRun.made = self

    def boot(self, request: Any) -> Any:
        if request.interrupted:
            raise KeyboardInterrupt
        self.boots.append(request.boot)
        return request.boot

    def finish(self, table: str) -> int:
        self.table = table
        return 0


def fake_boot(directory: pathlib.Path, files: dict[str, str], passed: Sequence[str],
              **more: Any) -> Any:
    """What a machine has left; more: attributes of its request."""
    for name, text in files.items():
        (directory / name).write_text(text)
    results = [ktap.Result(name, "pass", "", 1, "") for name in passed]
    request = types.SimpleNamespace(name="x86/npt", interrupted=False, **more)
    request.boot = types.SimpleNamespace(
        directory=directory, findings=[], request=request, meta={"release": "6.12"}, verdict=None,
        outcome=types.SimpleNamespace(stream=types.SimpleNamespace(results=results)))
    return request.boot


def install(monkeypatch: pytest.MonkeyPatch, module: str, requests: Sequence[Any]) -> None:
    """Have a measuring command boot these; nothing is built or drawn."""
    monkeypatch.setattr(f"ci.measure.{module}.Run", FakeRun)
    monkeypatch.setattr("ci.boot.request.plan", lambda *args, **more: [])
    monkeypatch.setattr("ci.boot.request.requests", lambda *args, **more: list(requests))
    monkeypatch.setattr("ci.build.images.booting", lambda config: contextlib.nullcontext())
    monkeypatch.setattr("ci.build.images.build", refuse)
    monkeypatch.setattr("ci.measure.plot.draw", lambda *args: None)
    monkeypatch.setattr("ci.measure.plot.check", lambda: None)


def refuse(*args: Any) -> None:
    raise AssertionError("images are there, and something is built")
