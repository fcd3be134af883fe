# SPDX-License-Identifier: GPL-2.0
"""QEMU's command line."""
import dataclasses
import pathlib

import pytest

from ci.boot import qemu
from ci.boot import request as request_
from ci.boot.request import Lockstep
from ci.facts.arch import KernelConfig
from ci.facts.cases import Case
from ci.tests.conftest import make_request

CASES = (Case("a", ("all",), "-", 1, ("x",)), Case("b", ("all",), "-", 1, ("x",)))


def test_what_the_guest_is_told() -> None:
    words = qemu.boot_parameters(make_request("arm64", cases=CASES, environment=("seed=7",),
                                              timeout=9)).split()
    assert words[-4:] == ["run=tests", f"scale={make_request('arm64').scale}", "timeout=9",
                          "cases=a,b"]
    assert {"seed=7", "hugepages=16", "panic=-1"} <= set(words)
    assert not {"nokaslr", "rcupdate.rcu_expedited=1"} & set(words)


def test_a_shell_survives_an_oops(tmp_path: pathlib.Path) -> None:
    argv = qemu.machine(make_request("arm64", kind="shell"), tmp_path)
    words = argv[argv.index("-append") + 1].split()
    assert {"quiet", "panic=-1", "hugepages=16", "run=shell"} <= set(words)
    assert "oops=panic" not in words


def test_what_is_counted_is_not_random() -> None:
    request = make_request("arm64", kind="bench", icount=True, seed=3)
    assert {"nokaslr", "norandmaps", "hugepages=330"} <= set(qemu.boot_parameters(request).split())
    argv = qemu.accelerator(request)
    assert argv[argv.index("-icount") + 1] == "shift=0,sleep=off"
    assert argv[argv.index("-seed") + 1] == "3"


def test_scale_is_of_emulation_and_configuration() -> None:
    debug = KernelConfig("debug", scale=4)
    request = make_request(config=debug)
    assert request.scale == 4 * request.arch.scale_tcg
    assert dataclasses.replace(request, accel="kvm").scale == 4


def test_a_comma_in_a_path_is_doubled(tmp_path: pathlib.Path) -> None:
    place = tmp_path / "a,b"
    argv = qemu.command(make_request("arm64"), place)
    assert f"file,id=ktap,path={tmp_path}/a,,b/tests.ktap" in argv


def test_counters_have_a_port_of_their_own(tmp_path: pathlib.Path) -> None:
    plain, gcov = (qemu.command(make_request("arm64", config=KernelConfig(name)), tmp_path)
                   for name in ("", "gcov"))
    assert [word for word in gcov if word not in plain] == [
        f"file,id=gcov,path={tmp_path}/gcov.raw", "virtserialport,chardev=gcov,name=gcov"]


def test_plugins(tmp_path: pathlib.Path) -> None:
    request = make_request(host_ticks=tmp_path / "host_ticks", timeline=("enter=1f",),
                           lockstep=Lockstep((250, 500), 2, spin=((16, 32),)))
    assert qemu.plugins(request, tmp_path) == [
        "-plugin", f"{tmp_path}/lockstep-1.so,quantum=250,quantum=500,wait_us=20000,spin=10-20,"
        f"out={tmp_path}/lockstep",
        "-plugin", f"{tmp_path}/timeline-1.so,enter=1f,out={tmp_path}/timeline"]
    assert request.directory == "x86-npt-2vcpus-1"


@pytest.mark.parametrize("version, api", [
    ("QEMU emulator version 7.2.9 (Debian 1:7.2)", 1), ("QEMU emulator version 8.2.0", 1),
    ("QEMU emulator version 9.0.2", 2), ("QEMU emulator version 9.1.0", 3),
    ("QEMU emulator version 10.0.0", 3), ("something else", 1)])
def test_a_plugin_fits_the_api(monkeypatch: pytest.MonkeyPatch, version: str, api: int) -> None:
    monkeypatch.setattr(request_, "first_line", lambda *argv: version)
    assert qemu.plugin_path(make_request(), "timeline").name == f"timeline-{api}.so"
