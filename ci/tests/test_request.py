# SPDX-License-Identifier: GPL-2.0
"""What is booted, and what it is known by."""
import dataclasses
import pathlib
from typing import Any

import pytest

from ci.boot import request as request_
from ci.boot.request import Lockstep, Request
from ci.build.source import Source
from ci.facts import arch
from ci.facts.base import Base
from ci.facts.text import BadInput
from ci.tests.conftest import Machines


@pytest.fixture(name="request_made")
def fixture_request_made(machines: Machines) -> Request:
    made, = request_.requests(machines.config(), "tests")
    return made


def test_a_request_is_what_the_knobs_say(machines: Machines) -> None:
    config = machines.config(seed=7, cpus=3, timeout=9, boot_seconds=1, grace_seconds=2,
                             cases=("second",))
    made, = request_.requests(config, "tests")
    assert (made.name, made.directory, made.release) == ("x86/npt", "x86-npt", "1.2.3")
    assert [case.name for case in made.cases] == ["second"]
    assert (made.environment, made.cpus, made.timeout) == (("seed=7",), 3, 9)
    assert (made.boot_seconds, made.grace_seconds) == (1, 2)
    assert made.initramfs == machines.root / "out" / "programs" / "x86" / "initramfs.cpio"
    assert request_.requests(config, "tests", icount=True)[0].cpus == 1


def test_seed_0_is_a_seed(machines: Machines) -> None:
    made, = request_.requests(machines.config(seed=0), "tests")
    assert made.environment == ("seed=0",)


@pytest.mark.parametrize("knobs, says", [
    ({"cases": ("first", "thirst")}, "CASES=thirst matches nothing here"),
    ({"mode": ("vhe",)}, "MODE=vhe: x86 has: npt"),
    ({"arch": ()}, "QEMU= names one binary: say ARCH= as well"),
    ({"qemu": "/none/qemu"}, "/none/qemu not found: run make deps")])
def test_knobs_that_are_off(machines: Machines, knobs: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        request_.plan(machines.config(**knobs), "tests")


def test_modes(machines: Machines) -> None:
    def names(default_mode: bool, *wanted: str) -> list[str]:
        config = machines.config(mode=wanted)
        return [mode.name for _, mode, _ in request_.plan(config, "tests", default_mode)]
    assert names(True) == ["npt"]
    assert names(False) == [mode.name for mode in arch.load("x86").modes]
    assert names(True, "shadow", "npt", "shadow") == ["shadow", "npt"]


def test_instructions_are_counted_under_tcg(machines: Machines) -> None:
    with pytest.raises(BadInput, match="instructions can be counted under tcg only"):
        request_.plan(machines.config(accel="kvm"), "bench", icount=True)


def test_kvm_of_another_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(BadInput, match="this host is riscv64, it cannot run x86"):
        request_.check_kvm(arch.load("x86"))


def test_another_make_has_built_there(machines: Machines) -> None:
    """Its series isn't the one that is asked for, though the guest would say what it is."""
    config = machines.config(images="", o=str(machines.root))
    config.out.parent.mkdir(exist_ok=True)
    config.out.symlink_to(machines.root / "out")
    release = config.out / "patched" / "x86.release"
    with pytest.raises(BadInput, match="x86.kernel is 1.2.3, not patched-[0-9a-f]{8}: another"):
        request_.requests(config, "tests")
    wanted = request_.source_.of(config).identity
    release.write_text(f"6.12-patched-{wanted}\n")
    assert request_.requests(config, "tests")[0].release == f"6.12-patched-{wanted}"
    # Who brings kernels of his own knows what they are.
    release.write_text("1.2.3")
    assert request_.requests(config, "tests", images=config.out / "patched")


# --- identity ---

@pytest.mark.parametrize("change", [
    {"mode": arch.load("x86").modes[1]}, {"kind": "bench"}, {"cases": ()}, {"release": "1.2.4"},
    {"accel": "kvm"}, {"cpus": 3}, {"icount": True}, {"timeout": 1}, {"environment": ("ops=7",)},
    {"config": arch.KernelConfig("debug")}, {"seed": 2}, {"qemu": "/bin/true"}])
def test_identity_is_of_all_that_an_outcome_depends_on(request_made: Request,
                                                       change: dict[str, Any]) -> None:
    before = request_.identity(request_made)
    assert request_.identity(dataclasses.replace(request_made, **change)) != before
    assert request_.identity(request_made) == before
    assert request_.identity(request_made, again=1) != before


def test_limits_and_commands_of_cases_count(request_made: Request) -> None:
    first, second = request_made.cases
    for change in ({"seconds": 31}, {"command": ("memslot_flag_test", "x")}):
        cases = (dataclasses.replace(first, **change), second)  # type: ignore[arg-type]
        assert (request_.identity(dataclasses.replace(request_made, cases=cases))
                != request_.identity(request_made))


@pytest.mark.parametrize("name", ["patched/x86.kernel", "patched/x86.config",
                                  "patched/x86.compiler", "programs/x86/initramfs.cpio"])
def test_files_count_by_content(machines: Machines, request_made: Request, name: str) -> None:
    before = request_.identity(request_made)
    (machines.root / "out" / name).write_text("other")
    assert request_.identity(request_made) != before


def test_plugins_count_by_content(tmp_path: pathlib.Path, request_made: Request) -> None:
    place = tmp_path / "plugins"
    place.mkdir()
    for name, more in (("lockstep", {"lockstep": Lockstep((250,), 2)}),
                       ("timeline", {"timeline": ("enter=1",)})):
        made = dataclasses.replace(request_made, host_ticks=place / "host_ticks",
                                   **more)  # type: ignore[arg-type]
        found = []
        for text in ("one", "two"):
            (place / f"{name}-1.so").write_text(text)
            found.append(request_.identity(made))
        assert found[0] != found[1]


def test_places_and_names_do_not_count(machines: Machines, request_made: Request,
                                       tmp_path: pathlib.Path) -> None:
    """A state of a revision is known by its images, whatever it is called."""
    (machines.root / "out" / "patched").rename(machines.root / "elsewhere")
    moved = dataclasses.replace(
        request_made, kernel=tmp_path / "elsewhere" / "x86.kernel", boot_seconds=1,
        source=dataclasses.replace(request_made.source, series="base"))
    (machines.root / "elsewhere").rename(tmp_path / "elsewhere")
    then = request_.identity(moved)
    (tmp_path / "elsewhere").rename(machines.root / "out" / "patched")
    assert request_.identity(request_made) == then


def test_metadata_has_names(request_made: Request) -> None:
    meta = request_.metadata(request_made)
    assert meta.items() >= request_.identity(request_made).items()
    assert (meta["base"], meta["series"], "commits" in meta) == ("v6.12", "patched", False)
    assert len(meta["series_sha256"]) == 64
    local = dataclasses.replace(request_made, release="6.12-patched-0-local")
    assert request_.metadata(local)["series_sha256"] == ""
    source = dataclasses.replace(request_made.source, kernel="/linux", commits=("a", "b"),
                                 series_sha256="")
    meta = request_.metadata(dataclasses.replace(request_made, source=source))
    assert (meta["kernel"], meta["commits"], meta["series_sha256"]) == ("/linux", ["a", "b"], "")
