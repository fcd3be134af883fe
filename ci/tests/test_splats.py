# SPDX-License-Identifier: GPL-2.0
"""One line of each report that this kernel can make, both architectures."""
import pathlib
import time

import pytest

from ci.facts.text import BadInput
from ci.judge import splats
from ci.judge.check import Check, Status

SPLATS = (
    "WARNING: CPU: 0 PID: 34 at arch/x86/kvm/x86.c:12391 kvm_arch_commit+0x1/0x2",
    "kernel BUG at virt/kvm/kvm_main.c:2983!",
    "BUG: unable to handle page fault for address: ffffc90000001000",
    "BUG: kernel NULL pointer dereference, address: 0000000000000000",
    "BUG: KASAN: slab-use-after-free in kvm_set_memslot+0x1/0x2",
    "Oops: general protection fault, probably for non-canonical address: 0000 [#1] SMP",
    "Call Trace:",
    "Call trace:",
    "Internal error: Oops: 0000000096000004 [#1] SMP",
    "Unable to handle kernel paging request at virtual address ffff800080000000",
    "Kernel panic - not syncing: Attempted to kill init!",
    "rcu: INFO: rcu_sched detected stalls on CPUs/tasks:",
    "rcu: INFO: rcu_sched self-detected stall on CPU",
    "watchdog: BUG: soft lockup - CPU#0 stuck for 26s!",
    "INFO: task memslot_fault_t:34 blocked for more than 120 seconds.",
    "WARNING: possible circular locking dependency detected",
    "UBSAN: array-index-out-of-bounds in mm/gup.c:1:2",
)
HARMLESS = (
    "[    0.0] Booting Linux on physical CPU 0x0",
    "[    0.1] kvm_amd: Nested Paging enabled",
    "[    0.1] debug: DEBUG mode, no bugs here",
    "init: case flag_combinations",
)


def scan(text: str, policy: splats.Policy) -> list[Check]:
    return list(splats.scan(text, policy))


@pytest.fixture(name="policy")
def fixture_policy() -> splats.Policy:
    return splats.load_policy()


@pytest.mark.parametrize("line", SPLATS)
def test_every_splat_is_found(policy: splats.Policy, line: str) -> None:
    assert len(scan(f"[    1.0] {line}", policy)) == 1


def test_nothing_else_is(policy: splats.Policy) -> None:
    assert scan("\n".join(HARMLESS), policy) == []


# Of v6.12, of mainline
@pytest.mark.parametrize("size", ["size 128", "size 4, align 0x1"])
def test_the_stack_of_an_ordered_failure_alone_is_excused(policy: splats.Policy,
                                                          size: str) -> None:
    stack = "[ 1.0] CPU: 1 UID: 0\n[ 1.0] Call Trace:\n"
    ordered = (f"[ 1.0] memslot_inject_: vmalloc error: {size}, vm_struct allocation failed, "
               "mode:0\n")
    assert scan(ordered + stack, policy) == []
    assert len(scan(ordered + stack + stack, policy)) == 1
    assert len(scan(ordered + "[ 1.0] BUG: KASAN: bad\n" + stack, policy)) == 1
    assert len(scan(ordered.replace("inject", "other") + stack, policy)) == 1


def test_a_splat_names_its_case_and_line(policy: splats.Policy) -> None:
    text = "init: case one\ninit: case two\n[ 1.0] BUG: bad\n"
    assert scan(text, policy) == [
        Check(Status.SPLAT, "[ 1.0] BUG: bad", "two", "console.log:3")]


def test_an_empty_policy_is_an_error(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "splats"
    path.write_text("allow BUG\n")
    with pytest.raises(BadInput, match="nothing is denied"):
        splats.load_policy(path)


def test_a_million_lines_of_a_kind_take_seconds(policy: splats.Policy) -> None:
    lines = [f"[{n:5}.0] kvm: one more line" for n in range(50000)]
    start = time.process_time()
    assert scan("\n".join(lines), policy) == []
    assert time.process_time() - start < 1
