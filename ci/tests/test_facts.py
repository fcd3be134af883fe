# SPDX-License-Identifier: GPL-2.0
"""The text tables: architectures, bases, cases, the matrix, the table of requirements."""
import pathlib
import re

import pytest

from ci.facts import arch, base, cases, matrix, text
from ci.facts.text import ROOT, BadInput

BASES = [base.load(name) for name in base.names()]
TESTS = cases.FILES["tests"]


def write(path: pathlib.Path, content: str) -> pathlib.Path:
    (path / "table").write_text(content)
    return path / "table"


# --- architectures and configurations ---

@pytest.mark.parametrize("name", arch.names())
def test_architectures(name):
    have = arch.load(name)
    assert have.modes and have.page_size == 4096
    assert have.mode(have.modes[0].name) == have.modes[0]
    with pytest.raises(BadInput, match=f"MODE=none: {name} has: "):
        have.mode("none")


def test_an_architecture_that_there_is_not():
    with pytest.raises(BadInput, match="no architecture riscv"):
        arch.load("riscv")


def test_facts_that_are_none(tmp_path):
    with pytest.raises(BadInput, match="table:2: neither a comment nor"):
        text.facts(write(tmp_path, "# a\nifeq (a,b)\n"))
    (tmp_path / "a.mk").write_text("page_size = 4096\n")
    with pytest.raises(BadInput, match="no line for 'modes'"):
        arch.load("a", tmp_path)


def test_configurations():
    assert arch.load_config("debug").scale == 4
    assert arch.load_config("") == arch.KernelConfig()
    # One that needs no facts has none.
    assert arch.load_config("nothing-special") == arch.KernelConfig("nothing-special")
    assert arch.load_config("debug").suffix == "-debug" and not arch.KernelConfig().suffix


def say(words):
    return f"[    0.1] kvm [1]: {words}\n"


LIMIT, VGIC = say("IPA Size Limit: 52 bits"), say("vgic interrupt IRQ9")
VHE, NVHE = (say(f"{kind} mode initialized successfully") for kind in ("VHE", "Hyp nVHE"))
OTHER = "[    0.1] Trying to unpack rootfs\n"


@pytest.mark.parametrize("console, mode", [
    (LIMIT + VGIC + VHE, "vhe"), (LIMIT + OTHER + VGIC + NVHE, "nvhe"), (LIMIT + VHE, "nogic"),
    (LIMIT + OTHER + OTHER + VHE, "nogic"), (LIMIT + NVHE, None),
    (LIMIT + say("GICv3: no") + VHE, None)])
def test_a_console_proves_one_mode(console, mode):
    found = [m.name for m in arch.load("arm64").modes if re.search(m.proof, console)]
    assert found == ([mode] if mode else [])


# --- bases ---

def test_the_default_base_comes_first():
    assert base.names()[0] == base.DEFAULT and base.FOR_KERNEL in base.names()
    assert BASES[0].results == ROOT / "results"
    assert all(one.patches and one.tested for one in BASES)
    assert not any(path.name.startswith("0000-") for one in BASES for path in one.patches)


# --- cases ---

@pytest.mark.parametrize("lines, words", [
    ("a all -", "want name"), ("A all - 1 x", "a name has only"), ("a all maybe 1 x", "needs is"),
    ("a all - 0 x", "seconds is"), ("a riscv - 1 x", "no such architecture or mode"),
    ("a all - 1 x\na all - 1 y", "a second case")])
def test_case_lines(tmp_path, lines, words):
    with pytest.raises(BadInput, match=words):
        cases.load(write(tmp_path, lines + "\n"))


def test_every_function_has_a_line_and_every_line_a_function():
    written = {(program.stem, line[5:-1]) for program in (ROOT / "selftests").glob("*_test.c")
               for line in program.read_text().splitlines() if line.startswith("CASE(")}
    listed = {case.command[:2] for case in cases.load(TESTS)
              if (ROOT / "selftests" / f"{case.command[0]}.c").exists()}
    assert written == listed


def test_cases_that_need_debug():
    names = {config: {case.name for case in cases.select(TESTS, "x86", "npt", BASES[0], (), config)}
             for config in ("", "debug")}
    assert names["debug"] - names[""] == {"inject_run", "inject_slot"}


def test_a_machine_that_lacks_something_has_the_cases_that_name_it():
    found = cases.select(TESTS, "arm64", "nogic", BASES[0])
    assert "timer_migrates" in [case.name for case in found]
    assert all("arm64/nogic" in case.archs for case in found)


def test_what_a_base_lacks_is_not_run():
    for place in (place for one in BASES for place in one.lacks if "/" in place):
        name, mode = place.split("/")
        here = next(one for one in BASES if place in one.lacks)
        assert cases.select(TESTS, name, mode, here) == []
    lacking = {name for name in BASES[0].lacks if "/" not in name}
    there = {case.name for case in cases.select(TESTS, "x86", "npt", BASES[0])}
    assert lacking and not lacking & there


def test_known_failures(tmp_path):
    assert cases.load_known()
    with pytest.raises(BadInput, match="want case | architecture | accelerator | output | why"):
        cases.load_known(write(tmp_path, "a | b | c\n"))


# --- the matrix ---

@pytest.mark.parametrize("one", BASES, ids=lambda one: one.name)
def test_each_mode_has_a_cell(one):
    there, left = matrix.chosen(matrix.load(one), arch.names(), slow=False)
    assert there and all(cell.when == "always" for cell in there)
    assert all(cell.why or cell.when == "slow" for cell in left)
    assert not [cell for cell in there if f"{cell.arch}/{cell.mode}" in one.lacks]
    there += [cell for cell in left if f"{cell.arch}/{cell.mode}" in one.lacks]
    for name in arch.names():
        modes = {cell.mode for cell in there if cell.arch == name}
        assert modes == {mode.name for mode in arch.load(name).modes}


@pytest.mark.parametrize("line", [
    "x86 npt -", "x86 npt - sometimes", "x86 npt - never", "x86 npt - always because",
    "x86 no - always", "x86 npt no always"])
def test_cells_that_are_refused(line):
    with pytest.raises(BadInput):
        matrix.parse(line, "here")


def test_a_cell_with_another_compiler():
    cell = matrix.parse("x86 npt LLVM=1 slow", "here")
    assert cell.name == "x86-npt-llvm" and not cell.config
    assert cell.command == "make check ARCH=x86 MODE=npt LLVM=1"
    assert matrix.chosen([cell], ["x86"], slow=True) == ([], [])   # of make revision
    assert matrix.chosen([cell], ["x86"], slow=True, llvm=True) == ([cell], [])


def test_gitlab_has_as_many_jobs_as_cells():
    """What other people's machines loop over is ci/matrix."""
    cells, _ = matrix.chosen(matrix.load(BASES[0]), arch.names(), slow=False)
    assert f"\n  parallel: {len(cells)}\n" in (ROOT / ".gitlab-ci.yml").read_text()


# --- the table of requirements, in selftests/README.md ---

ROW = re.compile(r"\| ([0-9R, ]*)\| [^|]+ \| ([a-z0-9_, ]+) \|")


def requirement_rows():
    lines = (ROOT / "selftests" / "README.md").read_text().splitlines()
    return [(match[1].strip(), match[2]) for match in map(ROW.match, lines) if match]


def named_cases():
    return {case for _, names in requirement_rows() for case in names.split(", ")} - {"none"}


def test_every_requirement_and_race_has_a_row():
    items = [item for cell, _ in requirement_rows() for item in cell.split(", ") if item]
    assert sorted(items) == sorted([str(n) for n in range(1, 84)]
                                   + [f"R{n}" for n in range(1, 14)])


def test_every_case_that_the_table_names_exists():
    assert not named_cases() - {case.name for case in cases.load(TESTS)}


def test_every_case_of_ours_is_in_the_table():
    """These need a row in selftests/README.md: | | what | case | |"""
    ours = {case.name for case in cases.load(TESTS) if case.command[0].startswith("memslot_")
            and (ROOT / "selftests" / f"{case.command[0]}.c").exists()}
    assert not ours - named_cases()
