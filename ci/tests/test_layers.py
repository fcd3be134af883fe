# SPDX-License-Identifier: GPL-2.0
"""The shape of the house: imports go down, one place reads the environment, lines are short."""
import ast
import pathlib

import pytest

from ci.facts.text import ROOT

CI = ROOT / "ci"
FLOORS = ("facts", "config", "build", "boot", "judge", "measure", "revision", "publish", "proof",
          "__main__")
# On one floor, and not to know each other
BESIDE = {("publish", "proof"), ("proof", "publish")}
SOURCES = sorted(path for path in CI.rglob("*.py") if "tests" not in path.parts)
MOST_COLUMNS, MOST_OF_A_FUNCTION, MOST_OF_A_CLASS = 100, 40, 120


def name_of(path: pathlib.Path) -> str:
    return str(path.relative_to(CI))


def floor_of(module: str) -> str:
    """Of "ci.build.git" or "ci": the floor it is on, or ""."""
    parts = module.split(".")
    return parts[1] if parts[0] == "ci" and len(parts) > 1 else ""


def imports(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def climbs(path: pathlib.Path, tree: ast.AST) -> list[str]:
    here = path.relative_to(CI).with_suffix("").parts[0]
    there = {floor for floor in map(floor_of, imports(tree)) if floor in FLOORS}
    return [floor for floor in there if FLOORS.index(floor) > FLOORS.index(here)
            or (here, floor) in BESIDE]


def uses_environment(tree: ast.AST) -> bool:
    return any(isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv")
               or isinstance(node, ast.ImportFrom) and node.module == "os"
               for node in ast.walk(tree))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_import_goes_up(path):
    if path.name != "__init__.py":
        assert not climbs(path, ast.parse(path.read_text()))


def test_an_import_that_goes_up_is_seen():
    tree = ast.parse("from ci.judge import results\nfrom ci.proof import defects")
    assert sorted(climbs(CI / "boot" / "qemu.py", tree)) == ["judge", "proof"]
    assert climbs(CI / "publish" / "mail.py", tree) == ["proof"]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_only_config_reads_the_environment(path):
    assert name_of(path) == "config.py" or not uses_environment(ast.parse(path.read_text()))


def test_a_read_of_the_environment_is_seen():
    for text in ("import os\nos.environ['A'] = 'b'", "from os import environ", "os.getenv('A')"):
        assert uses_environment(ast.parse(text))


@pytest.mark.parametrize("path", sorted(CI.rglob("*.py")), ids=name_of)
def test_lines_fit(path):
    wide = [number for number, line in enumerate(path.read_text().splitlines(), 1)
            if len(line) > MOST_COLUMNS]
    assert not wide


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_functions_and_classes_are_short(path):
    for node in ast.walk(ast.parse(path.read_text())):
        most = {ast.FunctionDef: MOST_OF_A_FUNCTION, ast.ClassDef: MOST_OF_A_CLASS}.get(type(node))
        if most and path.name != "config.py":
            assert node.end_lineno - node.lineno < most, node.name


def test_what_modules_are_called():
    """A test is named after what it tests."""
    modules = {path.stem for path in SOURCES} | {"facts", "build"}
    # kernel-patches/apply, bench/dist, what may befall a machine, measure/faults.py, this
    others = {"apply", "dist", "faults", "measure_faults", "layers"}
    for path in (CI / "tests").glob("test_*.py"):
        assert path.stem.removeprefix("test_") in modules | others, path
