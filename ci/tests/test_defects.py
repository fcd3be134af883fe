# SPDX-License-Identifier: GPL-2.0
import pathlib
import shutil
import types

import pytest

from ci.build.files import read_json, write_json
from ci.build.git import git
from ci.config import Config
from ci.facts import arch as arch_
from ci.facts import base as base_
from ci.facts.text import BadInput
from ci.judge.check import Check, Status
from ci.judge.results import DISK_IS_FULL
from ci.proof import defects

KINDS = (defects.TESTS, defects.BENCH, defects.REVISION)
DIFF = "\ndiff --git a/a b/a\n"


def with_defects():
    """(base, kind) of all that there is something for."""
    return [(base, kind) for base in base_.names() for kind in KINDS
            if base == base_.DEFAULT or kind is not defects.REVISION]


def name_of(value):
    return getattr(value, "directory", value)


@pytest.fixture
def read(tmp_path):
    def read(text, kind=defects.TESTS, base="v6.12"):
        path = tmp_path / "a.patch"
        path.write_text(text)
        return defects.read(path, base, kind)
    return read


class FakeRun:
    def __init__(self, config, what):
        self.directory = pathlib.Path(config.results)
        self.directory.mkdir(exist_ok=True)


@pytest.fixture(autouse=True)
def run_of_its_own(monkeypatch):
    monkeypatch.setattr(defects, "Run", FakeRun)


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    """One with a commit, to be copied."""
    tree = tmp_path_factory.mktemp("repository")
    git(tree, "init", "-q", "--template=")
    (tree / "file").write_text("".join(f"{number}\n" for number in range(30)).replace(
        "\n20\n", "\nchanged by 2\n"))
    git(tree, "add", "file")
    git(tree, "commit", "-qm", "a")
    return tree


# --- files ---

@pytest.mark.parametrize("base, kind", with_defects(), ids=name_of)
def test_all_of_ours_can_be_tried(base, kind):
    found = defects.load(kind, base)
    assert all(set(defect.archs) <= set(arch_.names()) for defect in found)
    planned = defects.plan(Config(base=base), kind)
    assert {d.name for _, mine in planned for d, _ in mine} == {d.name for d in found}


def test_a_header(read):
    mutant = read("It is wrong.\n\nArch: x86\nMode: shadow\nKilled-by: absent_read\n"
                  f"Killed-by: absent_write\n{DIFF}")
    assert (mutant.name, mutant.why, mutant.archs) == ("a", "It is wrong.", ("x86",))
    assert mutant.killers == ["absent_read", "absent_write"]
    config = defects.killers_of(Config(arch=("x86",)), mutant)
    assert (defects.where(config), config.mode, config.config) == ("x86/shadow", ("shadow",), "")
    assert (config.cases, config.timeout) == (tuple(mutant.killers), 15)
    assert mutant.diff == DIFF[1:]


SECTIONS = (f"It is wrong.\n\nArch: x86\nKilled-by: a\n\nBase: v6.12\n{DIFF}-1\n\n"
            f"Base: mainline\nKilled-by: b\n{DIFF}-2\n")


def test_a_section_for_each_base(read):
    here, there = read(SECTIONS), read(SECTIONS, base="mainline")
    assert (here.killers, here.diff) == (["a"], f"{DIFF[1:]}-1\n\n")
    assert (there.killers, there.diff) == (["a", "b"], f"{DIFF[1:]}-2\n")


def test_what_one_base_does_not_have(read):
    assert read(SECTIONS.partition("\nBase: mainline")[0], base="mainline") is None


@pytest.mark.parametrize("text", (SECTIONS.replace("mainline", "v9"),
                                  SECTIONS.replace("\nBase: v6.12", DIFF)))
def test_a_section_that_is_refused(read, text):
    with pytest.raises(BadInput, match="one below each line Base:"):
        read(text)


@pytest.mark.parametrize("kind, header", (
    (defects.TESTS, "Arch: x86"), (defects.TESTS, "Arch: x86\nKilled-by:"),
    (defects.TESTS, "Killed-by: absent_read"),
    (defects.BENCH, "Arch: x86"), (defects.BENCH, "Arch: x86\nBench: fast_minor"),
    (defects.BENCH, "Arch: x86\nScale: a 4 80\nBench: a 1"), (defects.BENCH, "Bench: a 1"),
    (defects.REVISION, "Patch: 7\nArch: x86\nFinds: boot"),
    (defects.REVISION, "Patch: 7\nArch: x86\nOf: all\nFinds: boot | fail | a"),
    (defects.REVISION, "Patch: 7\nBefore: 6\nArch: x86\nFinds: boot | fail | a")))
def test_a_header_that_is_refused(read, kind, header):
    with pytest.raises(BadInput, match="expected a first line"):
        read(f"It is wrong.\n\n{header}\n{DIFF}", kind)


@pytest.mark.parametrize("kind, header", (
    (defects.TESTS, "Arch: x86\nKilled-by: absent_read"), (defects.BENCH, "Arch: x86\nBench: a 1"),
    (defects.REVISION, "Patch: 7\nArch: x86\nFinds: boot | fail | a")))
def test_no_diff_is_refused(read, kind, header):
    assert read(f"It is wrong.\n\n{header}\n{DIFF}", kind)
    with pytest.raises(BadInput, match="and a diff"):
        read(f"It is wrong.\n\n{header}\n", kind)


# --- the plan ---

@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory of mutants that is there instead of ours."""
    monkeypatch.setattr(defects, "DEFECTS", tmp_path)
    (tmp_path / "tests").mkdir()

    def write(name, header):
        path = tmp_path / "tests" / f"{name}.patch"
        path.write_text(f"It is wrong.\n\n{header}\n{DIFF}")
    return write


@pytest.mark.parametrize("header, words", (
    ("Killed-by: no_such_case", "no such case: no_such_case"),
    ("Killed-by: absent_read\nMode: vhe", "MODE=vhe: x86 has: npt"),
    ("Killed-by: absent_read\nConfig: none", "unknown CONFIG=none"),
    ("Killed-by: inject_run", "x86/npt has none of the cases in Killed-by")))
def test_what_cannot_be_tried(place, header, words):
    place("a", f"Arch: x86\n{header}")
    with pytest.raises(BadInput, match=f"a.patch: {words}"):
        defects.plan(Config(arch=("x86",)), defects.TESTS)


def test_the_killers_that_an_architecture_and_a_configuration_have(place):
    place("a", "Arch: x86\nConfig: debug\nKilled-by: guest_pages_4k inject_run")
    (_, ((_, config),)), = defects.plan(Config(arch=("x86",)), defects.TESTS)
    assert (defects.where(config), config.timeout) == ("x86/npt/debug", 0)
    assert config.cases == ("inject_run",)


def test_patterns_choose(place):
    place("one", "Arch: x86\nKilled-by: absent_read")
    place("two", "Arch: x86\nKilled-by: absent_read")
    (_, mine), = defects.plan(Config(arch=("x86",), mutants=("o*",)), defects.TESTS)
    assert [mutant.name for mutant, _ in mine] == ["one"]
    with pytest.raises(BadInput, match="MUTANTS=three"):
        defects.plan(Config(arch=("x86",), mutants=("three",)), defects.TESTS)


def test_nothing_for_an_architecture(place):
    place("one", "Arch: x86\nKilled-by: absent_read")
    with pytest.raises(BadInput, match="none of them is for arm64; say ARCH= as well"):
        defects.plan(Config(), defects.TESTS)


def test_spoiled_patches_of_one_architecture_will_do():
    found = defects.plan(Config(mutants=("style",)), defects.REVISION)
    assert [(arch.name, len(mine)) for arch, mine in found] == [("arm64", 1), ("x86", 0)]
    with pytest.raises(BadInput, match="none of them is for x86"):
        defects.plan(Config(arch=("x86",), mutants=("style",)), defects.REVISION)


# --- mutants ---

def judge(findings, heard=("a", "b"), how="exited", plan=2):
    results = [types.SimpleNamespace(name=name) for name in heard]
    stream = types.SimpleNamespace(results=results, plan=plan)
    boot = types.SimpleNamespace(findings=findings,
                                 outcome=types.SimpleNamespace(stream=stream, how=how))
    return defects.judge_mutant(boot, ["a", "b"])


def fail(case="a"):
    return Check(Status.FAIL, case=case, where="tests.ktap:1")


def lost(case="a", summary="Kernel panic", where="console.log:9"):
    return Check(Status.LOST, summary, case, where)


def test_both_notice():
    found = [fail(), Check(Status.TIMEOUT, case="b", where="tests.ktap:2")]
    assert judge(found) == (True, "by a b:timeout")


def test_one_survives():
    assert judge([fail()]) == (False, "not noticed by b")
    assert judge([]) == (False, "not noticed by a b")


def test_a_known_failure_is_no_kill():
    known = Check(Status.KNOWN, case="a", where="tests.ktap:1")
    assert judge([known]) == (False, "not noticed by a b")


def test_the_machine_is_lost():
    assert judge([lost()], heard=()) == (True, "by a:lost (and the machine is lost)")


@pytest.mark.parametrize("findings, how, plan, words", (
    ([lost(summary="QEMU was killed by SIGKILL", where="qemu.log")], "killed", 2, "SIGKILL"),
    ([lost("", "the guest ended without its end record")], "exited", 0, "without its end record"),
    ([], "exited", 0, "the machine did not come up"),
    ([lost(), Check(Status.HARNESS, DISK_IS_FULL)], "exited", 2, DISK_IS_FULL)))
def test_trouble_of_the_host_is_no_kill(findings, how, plan, words):
    with pytest.raises(BadInput, match=words):
        judge(findings, (), how, plan)


def test_a_broken_trial_is_no_kill():
    with pytest.raises(BadInput, match="asked for release=1"):
        judge([Check(Status.HARNESS, "asked for release=1", where="tests.ktap")])


class FakeTrials(defects.Trials):
    """Boots have these findings."""

    def __init__(self, config, *findings):
        self.config, self.findings = config, findings

    def build(self, config, defect, label):
        pass

    def request(self, config, kind, icount=False):
        return types.SimpleNamespace(name="x86/npt", directory="x86-npt")

    def boot(self, request, label):
        stream = types.SimpleNamespace(results=[], plan=2)
        return types.SimpleNamespace(findings=list(self.findings), outcome=types.SimpleNamespace(
            stream=stream, how="exited"))


def mutants_of(place):
    place("one", "Arch: x86\nKilled-by: absent_read")
    place("two", "Arch: x86\nKilled-by: absent_write")
    (_, mine), = defects.plan(Config(arch=("x86",)), defects.TESTS)
    return mine


def test_a_case_that_fails_without_a_mutant_cannot_kill(place, capsys):
    mine = mutants_of(place)
    failing = FakeTrials(Config(), Check(Status.FAIL, "so", "absent_read"))
    wrong = defects.fail_without(failing, mine)
    assert wrong == {"x86/npt": {"absent_read": "so"}}
    assert "x86-npt: 1 of 2 cases pass without a mutant" in capsys.readouterr().out
    with pytest.raises(BadInput, match="absent_read fails without a mutant: so"):
        defects.try_mutant(FakeTrials(Config()), *mine[0], wrong)
    assert defects.try_mutant(FakeTrials(Config(), fail("absent_write")), *mine[1], wrong)[0]


def test_a_machine_that_fails_without_a_mutant_ends_all(place):
    with pytest.raises(BadInput, match="the series without a mutant, x86-npt: Kernel panic"):
        defects.fail_without(FakeTrials(Config(), lost(case="")), mutants_of(place))


# --- plants ---

def test_a_cost_that_is_seen(read):
    plant = read(f"It is slow.\n\nArch: x86\nBench: fast 200\n{DIFF}", defects.BENCH)
    assert [defects.judge_plant(plant, [1000], [1000 + n])[0]
            for n in (0, 195, 196, 204, 205)] == [False, False, True, True, False]


def test_a_lock_that_is_seen(read):
    plant = read(f"It is slow.\n\nArch: x86\nScale: fast 4 8000\n{DIFF}", defects.BENCH)
    # (8000 + 8000) / (4 * 8000) of four times 62.5 pages
    assert [defects.judge_plant(plant, [125, 490], [62.5, rate])[0]
            for rate in (125, 140, 245, 90)] == [True, True, False, False]


# --- spoiled patches ---

@pytest.mark.parametrize("header, tool, patches, against", (
    ("", "boot", "7-7", False), ("", "cost", "7-7", True),
    ("Of: the whole\n", "cost", "", True)))
def test_what_make_revision_is_asked(read, tmp_path, header, tool, patches, against):
    spoiled = read(f"Bad.\n\nPatch: 7\nArch: x86\n{header}Finds: {tool} | fail | a\n{DIFF}",
                   defects.REVISION)
    config = defects.revision_config(Config(arch=("x86",), mutants=("a",)), spoiled, tmp_path / "a")
    assert (config.arch, config.mutants, config.patches) == (("x86",), (), patches)
    assert config.revision == str(tmp_path / "a")
    assert bool(config.against) == against
    assert config.results == str(tmp_path / "a.results")


def test_a_patch_that_is_moved_is_judged_with_its_neighbour(read, tmp_path):
    spoiled = read("Bad.\n\nPatch: 7\nBefore: 6\nArch: x86\nFinds: boot | fail | a\n",
                   defects.REVISION)
    config = defects.revision_config(Config(), spoiled, tmp_path)
    assert config.patches == "6-7"


def document(*checks):
    rows = [{"patch": 7, "arch": "x86", "tool": "boot", "status": "fail", "summary": "a case",
             **check} for check in checks]
    return {"checks": rows, "patches": [{}] * 15}


def test_the_first_finding_has_to_be_it(read):
    spoiled = read(f"Bad.\n\nPatch: 7\nArch: x86\nFinds: boot | fail | case\n{DIFF}",
                   defects.REVISION)

    def seen(*checks):
        return defects.judge_spoiled(spoiled, "x86", document(*checks))
    assert seen({}) == (True, "FAIL patch 7/15 x86 boot: a case")
    assert seen({"status": "pass"}, {"patch": 9}, {})[0]
    for other in ({"patch": 6}, {"arch": "arm64"}, {"tool": "build"}, {"status": "splat"},
                  {"summary": "b"}):
        assert not seen(other)[0], other
    assert not seen({}, {"patch": 3})[0]
    assert seen({"status": "pass"}) == (False, "nothing")


def test_ctrl_c_of_a_revision_ends_all(read, tmp_path, monkeypatch):
    """Whatever else was found until then."""
    spoiled = read(f"Bad.\n\nPatch: 7\nArch: x86\nFinds: boot | fail | case\n{DIFF}",
                   defects.REVISION)
    trials = defects.Trials(Config(arch=("x86",), results=str(tmp_path / "run")), "spoiled")
    made = {**document({}), "verdict": "interrupted"}
    monkeypatch.setattr(defects, "make_series", lambda *_: None)
    monkeypatch.setattr("ci.revision.judge.revision", lambda config: (tmp_path, made))
    with pytest.raises(KeyboardInterrupt):
        defects.try_spoiled(trials, spoiled, trials.config, None)
    assert read_json(tmp_path / "revision.json") == made
    made["verdict"] = "fail"
    assert defects.try_spoiled(trials, spoiled, trials.config, None)[0]


@pytest.fixture(scope="session")
def applied(tmp_path_factory):
    """Three patches of a file, in a directory and, applied, in a tree."""
    tree = tmp_path_factory.mktemp("applied") / "tree"
    git(".", "init", "-q", "--template=", str(tree))
    lines = [f"{number}\n" for number in range(40)]
    for number in range(4):
        lines[10 * number] = f"changed by {number}\n"
        (tree / "file").write_text("".join(lines))
        git(tree, "add", "file")
        git(tree, "commit", "-qm", f"one, {number}\n\nBecause.")
    git(tree, "update-ref", "refs/remotes/origin/base", "HEAD~3")
    git(tree, "format-patch", "-q", "--cover-letter", "--signature=2.39", "-o", "../series",
        "origin/base")
    return tree.parent


@pytest.fixture
def series(applied, tmp_path):
    for name in ("tree", "series"):
        shutil.copytree(applied / name, tmp_path / name)
    git(tmp_path / "tree", "reset", "-q")  # the index knows the files that were copied
    return tmp_path / "tree", base_.Base("a", tmp_path / "series", "", pathlib.Path(), "")


SPOILED = """Bad.

Patch: {patch}
Arch: x86
Finds: boot | fail | a

diff --git a/file b/file
--- a/file
+++ b/file
@@ -21,5 +21,5 @@
 changed by 2
 21
 22
-23
+spoiled
 24
"""


def test_one_patch_is_spoiled(read, series, tmp_path):
    tree, base = series
    before, made = (tree / "file").stat().st_mtime_ns, tmp_path / "made"
    spoiled = read(SPOILED.format(patch=2), defects.REVISION)
    defects.make_series(spoiled, base, tree, made)
    assert [path.name for path in sorted(made.iterdir())] == [
        path.name for path in sorted(base.directory.iterdir())]
    assert (tree / "file").stat().st_mtime_ns == before  # or a kernel is built again
    git(tree, "checkout", "-q", "--detach", "origin/base")
    for number in (1, 2):
        path, = made.glob(f"000{number}-*")
        git(tree, "am", "-q", str(path))
    text = (tree / "file").read_text()
    assert "\nchanged by 2\n21\n22\nspoiled\n24\n" in text and "\n30\n" in text
    assert git(tree, "log", "-1", "--format=%B") == "one, 2\n\nBecause."
    kept, = made.glob("0003-*")
    assert kept.read_text() == (base.directory / kept.name).read_text()


def test_a_patch_is_moved(read, series, tmp_path):
    tree, base = series
    spoiled = read("Bad.\n\nPatch: 3\nBefore: 2\nArch: x86\nFinds: boot | fail | a\n",
                   defects.REVISION)
    defects.make_series(spoiled, base, tree, tmp_path / "made")
    assert [path.name for path in sorted((tmp_path / "made").iterdir())][1:] == [
        "0001-one-1.patch", "0002-one-3.patch", "0003-one-2.patch"]


@pytest.mark.parametrize("fate", (KeyboardInterrupt, BadInput))
def test_the_tree_has_the_whole_series_afterwards(read, series, tmp_path, monkeypatch, fate):
    def broken(tree, *argv, **more):
        if argv[0] == "diff":
            raise fate
        return git(tree, *argv, **more)
    monkeypatch.setattr(defects, "git", broken)
    tree, base = series
    head = git(tree, "rev-parse", "HEAD")
    with pytest.raises(fate):
        defects.spoil(tree, base.patches, read(SPOILED.format(patch=2), defects.REVISION))
    assert (git(tree, "rev-parse", "HEAD"), git(tree, "status", "--porcelain")) == (head, "")


def test_a_tree_of_another_series_is_refused(read, series):
    tree, base = series
    git(tree, "commit", "-q", "--allow-empty", "-m", "more")
    with pytest.raises(BadInput, match="has 4 commits, not 3 patches"):
        defects.spoil(tree, base.patches, read(SPOILED.format(patch=2), defects.REVISION))


# --- tables ---

@pytest.mark.parametrize("base, kind", with_defects(), ids=name_of)
def test_the_committed_tables_are_of_these_defects(base, kind):
    for arch in arch_.names() if kind.each_arch else [""]:
        path = base_.load(base).results / f"{kind.what}{arch and '-' + arch}.json"
        table = read_json(path)
        rows = {defects.key(row): row["verdict"] for row in table["rows"]}
        wanted = {(d.name, a): kind.good for d in defects.load(kind, base) for a in d.archs
                  if a == arch or not arch}
        assert rows == wanted, f"{path} is of other defects: make check-... BASE={base}"
        assert path.with_suffix(".txt").read_text() == defects.render(kind, table)


ROW = {"name": "a", "where": "x86/npt", "verdict": "killed", "text": "by absent_read"}


def test_a_row_of_an_earlier_series_says_so(tmp_path):
    path = tmp_path / "table.json"
    assert defects.earlier(path, "2") == []
    write_json(path, {"release": "1", "rows": [ROW, {**ROW, "on": "0"}]})
    assert [row.get("on") for row in defects.earlier(path, "1")] == [None, "0"]
    rows = defects.earlier(path, "2")
    assert [row["on"] for row in rows] == ["1", "0"]
    text = defects.render(defects.TESTS, {"release": "2", "rows": [*rows, ROW], "unnamed": []})
    assert text.splitlines()[:2] == ["3 mutants of 2: 3 killed, 0 survived, 0 not tried",
                                     "2 of them on an earlier series, as they say"]
    assert "killed    by absent_read (on 1)\n" in text
    assert text.endswith("\ncases that no mutant names: none\n")


# --- the engine ---

@pytest.fixture
def engine(place, repository, tmp_path, monkeypatch):
    """(verdicts) -> exit status of make check-mutants; the rows are in tmp_path/committed."""
    place("one", "Arch: x86\nKilled-by: absent_read")
    place("two", "Arch: x86\nKilled-by: absent_read")
    config = Config(arch=("x86",), o=str(tmp_path / "o"), results=str(tmp_path / "run"))
    image = config.out / "patched" / "x86.release"
    image.parent.mkdir(parents=True)
    image.write_text("6.12-patched-1\n")
    tree = shutil.copytree(repository, config.out / "mutant" / "linux")
    monkeypatch.setattr("ci.build.images.build", lambda config: None)
    monkeypatch.setattr(defects, "prepare", lambda config: None)
    monkeypatch.setattr(base_.Base, "results", tmp_path / "committed")

    def check(*verdicts, mutants=()):
        """A verdict that is an exception is raised."""
        coming = iter(verdicts)

        def attempt(*_):
            (tree / "file").write_text("spoiled")
            if isinstance(verdict := next(coming), BaseException):
                raise verdict
            return verdict
        kind = defects.dataclasses.replace(defects.TESTS, without=lambda *_: None, attempt=attempt)
        try:
            return defects.check(defects.dataclasses.replace(config, mutants=mutants), kind)
        finally:
            assert "spoiled" not in (tree / "file").read_text()
    return check


@pytest.mark.parametrize("verdicts, status", (
    ([(True, "so"), (True, "so")], 0), ([(True, "so"), (False, "so")], 1),
    ([BadInput("so"), (False, "so")], 2), ([BadInput("so"), (True, "so")], 2)))
def test_the_exit_status(engine, verdicts, status):
    assert engine(*verdicts) == status


def test_a_defect_that_cannot_be_tried_has_a_row(engine, tmp_path):
    engine(BadInput("no such line"), (True, "so"))
    rows = read_json(tmp_path / "run" / "mutants-x86.json")["rows"]
    assert [(row["verdict"], row["text"]) for row in rows] == [
        ("ERROR", "no such line"), ("killed", "so")]


def test_ctrl_c_ends_the_trials(engine, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        engine((True, "so"), KeyboardInterrupt())
    assert not (tmp_path / "committed").exists()


def test_the_commands_try_their_kind():
    assert [command.keywords["kind"] for command in (
        defects.check_mutants, defects.check_bench, defects.check_revision)] == list(KINDS)


def test_a_table_with_all_defects_is_committed(engine, tmp_path, capsys):
    committed = tmp_path / "committed" / "mutants-x86.json"
    engine((True, "so"), mutants=("two",))
    assert not committed.exists() and (tmp_path / "run" / "mutants-x86.txt").exists()
    engine((True, "so"), (False, "not so"))
    engine((True, "now"), mutants=("two",))
    assert [(row["verdict"], row["text"]) for row in read_json(committed)["rows"]] == [
        ("killed", "so"), ("killed", "now")]
    said = capsys.readouterr().out
    assert "2 mutants of 6.12-patched-1: 2 killed, 0 survived" in said
    assert "cases that no mutant names: absent_" in said
    assert said.count("so\n") == 3  # a row is printed once


@pytest.fixture
def trials(repository, tmp_path):
    config = Config(arch=("x86",), o=str(tmp_path / "o"), results=str(tmp_path / "run"))
    trials = defects.Trials(config, "mutants")
    shutil.copytree(repository, trials.tree)
    return trials


def test_a_mutant_that_does_not_apply(trials, read):
    mutant = read(SPOILED.format(patch=2).replace("/file", "/other"), defects.REVISION)
    with pytest.raises(BadInput, match="other: No such file"):
        trials.build(trials.config, mutant, "a")


def test_what_is_booted_of_a_mutant(machines):
    config = machines.config(mode=("npt",), cases=("second",), timeout=defects.CASE_SECONDS)
    trials = defects.Trials(config, "mutants")
    trials.place = machines.root / "out" / "patched"
    request = trials.request(config, "tests")
    assert (request.kernel, request.initramfs) == (trials.place / "x86.kernel",
                                                   trials.place / "x86.cpio")
    assert ([case.name for case in request.cases], request.timeout) == (["second"], 15)


def test_a_kernel_of_its_own_is_built(trials, monkeypatch, read):
    """The tree has the defect then; its configuration is proven like any other."""
    commands, config, file = [], trials.config, trials.tree / "file"
    checked = []
    monkeypatch.setattr("ci.build.progress.call", lambda command, log, **more: (
        commands.append((command, file.read_text())), len(commands) > 2)[1])
    monkeypatch.setattr("ci.build.config_check.check", lambda config, _: checked.append(config))
    mutant = read(SPOILED.format(patch=2), defects.REVISION)
    trials.build(config, None, "series")
    assert set(checked) == {config.out / "mutant" / "x86.config"}
    with pytest.raises(BadInput, match="^does not build, see .*mutant.build.log"):
        trials.build(defects.dataclasses.replace(config, config="debug"), mutant, "mutant")
    (first, series), (second, _), (third, broken) = commands
    assert "spoiled" not in series and "spoiled" in broken
    assert [first[-1], second[-1]] == ["configuration", "kernel"] and "SERIES=mutant" in first
    assert "CONFIG=debug" in third
    with pytest.raises(BadInput, match="without a defect does not build"):
        trials.build(config, None, "series")
    assert "spoiled" not in file.read_text()
