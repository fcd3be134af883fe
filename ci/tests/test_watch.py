# SPDX-License-Identifier: GPL-2.0
"""A machine that says nothing any more is given up; the limits are made short here."""
import pathlib

import pytest

from ci.boot import watch
from ci.tests.conftest import make_request


@pytest.mark.parametrize("fate, detail", [("silent", "booting took longer than 1 s"),
                                          ("hang", "first took longer than 2 s")])
def test_a_hang(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, fate: str,
                detail: str) -> None:
    monkeypatch.setenv("FAKE_QEMU", fate)
    outcome = watch.run(make_request(boot_seconds=1, grace_seconds=1), tmp_path)
    assert (outcome.how, outcome.detail) == ("timeout", detail)
