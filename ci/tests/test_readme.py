# SPDX-License-Identifier: GPL-2.0
"""What results/ and the README quote."""
import re

import pytest

from ci.build.files import read_json, write_json
from ci.config import Config
from ci.facts import arch, base, cases
from ci.facts.text import ROOT, BadInput
from ci.measure import contention, scaling, tables
from ci.publish import readme, template
from ci.tests.judged import document

README, BENCH = ROOT / "README.md", "bench"
FULL = [{"vcpus": vcpus, "boot": boot} for vcpus, boot in sorted(scaling.FULL_RUN)]


# --- what is committed ---

def test_its_table_is_of_the_results():
    text = README.read_text()
    assert readme.in_readme(text, readme.committed(BENCH)) == text


def test_it_is_short():
    assert len(README.read_text().splitlines()) <= 130


def test_what_it_links_to_is_there():
    for name in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("command", ["make deps check", "make deps bench"])
def test_it_names_the_commands_that_ci_runs(command):
    assert f"    {command}" in README.read_text()
    assert f'"{command}"' in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("kind", readme.TABLES)
@pytest.mark.parametrize("name", base.names())
def test_the_texts_of_results_are_of_their_data(tmp_path, kind, name):
    found, place = readme.committed(kind).get(name), base.load(name).results
    if found:
        readme.write_table(tmp_path, kind, found)
        for path in tmp_path.iterdir():
            assert path.read_text() == (place / path.name).read_text(), path.name


# --- a run ---

def modes(kind):
    if kind == "profile":
        return list(contention.MODES)
    return [case.name for case in cases.load(cases.FILES[kind])]


def metas(kind, **more):
    """Of all boots of a run that may be quoted."""
    return [{"arch": name, "verdict": "pass", "release": "6.12-patched-1234", "base": "v6.12",
             "series": "patched", "config": "profile" * (kind == "profile"), "lockstep": lockstep,
             "results": [{"name": mode} for mode in modes(kind)], **more}
            for name in arch.names() for lockstep in (FULL if kind == "scale" else [None])]


class World:
    """results/ and README of their own, and runs beside them."""

    def __init__(self, root):
        self.root, self.runs = root, root / "runs"
        self.tables = {kind: readme.committed(kind)["v6.12"] for kind in readme.TABLES}
        self.runs.mkdir()
        (root / "results").mkdir()
        (root / "README.md").write_text(f"head\n\n{readme.BEGIN}old\n{readme.END}tail\n")

    def run(self, kind, boots=None, name=""):
        directory = self.runs / (name or f"20260101-000000-{kind}")
        directory.mkdir()
        for number, meta in enumerate(metas(kind) if boots is None else boots):
            (directory / str(number)).mkdir()
            write_json(directory / str(number) / "meta.json", meta)
        write_json(directory / "table.json", self.tables[kind])
        for pattern in readme.PICTURES[kind]:
            (directory / pattern.replace("*", "x")).write_text("<svg/>")
        (self.runs / "latest").symlink_to(directory.name)
        return directory

    def reference(self):
        return readme.reference(Config(results=str(self.runs)))

    def refuse(self, words):
        with pytest.raises(BadInput, match=words):
            self.reference()
        assert not list((self.root / "results").iterdir())

    def names(self, place="."):
        return {path.name for path in (self.root / "results" / place).iterdir() if path.is_file()}


@pytest.fixture
def world(tmp_path, monkeypatch):
    found = World(tmp_path)
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(base, "ROOT", tmp_path)
    return found


@pytest.mark.parametrize("kind, wanted", [
    ("bench", {"reference.json", "reference.txt", "stages.txt", "stages.svg", "latency.svg"}),
    ("scale", {"scaling.json", "scaling.txt", "scaling.svg", "ratio.svg"}),
    ("profile", {"profile.json", "profile.txt", "flame-x.svg"})])
def test_a_run_becomes_the_reference(world, kind, wanted):
    world.run(kind)
    assert world.reference() == 0
    assert world.names() == wanted
    name = readme.TABLES[kind]
    assert read_json(world.root / "results" / f"{name}.json") == world.tables[kind]
    text = (world.root / "results" / f"{name}.txt").read_text()
    assert text.startswith(tables.render(world.tables[kind]))
    assert text.splitlines()[-1].startswith("x86/npt: 6.12")
    assert ("    fast_minor" in (world.root / "README.md").read_text()) == (kind == "bench")


def test_another_base_has_a_place_of_its_own(world):
    world.run("bench", metas("bench", base="mainline"))
    assert world.reference() == 0
    assert world.names() == set() and "reference.json" in world.names("mainline")
    assert "mainline" in (world.root / "README.md").read_text()


@pytest.mark.parametrize("boots, words", [
    ([], "not a run of make bench that passed"),
    (metas("bench", verdict="harness"), "not a run of make bench that passed"),
    (metas("bench", verdict="known"), "not a run of make bench that passed"),
    (metas("bench", release="6.12-patched-local"), "changes that are not in kernel-patches/"),
    (metas("bench", results=[{"name": "mapped"}]), "did not measure every mode of the series on "
                                                   "arm64; make bench does"),
    (metas("bench")[:1], "did not measure every mode of the series on x86"),
    (metas("bench", series="base"), "did not measure every mode of the series"),
    (metas("bench", config="debug"), "did not measure every mode of the series"),
    (metas("bench", base="v1.0"), "of v1.0, which is no base of"),
    (metas("bench", kernel="/linux"), "somebody's tree")], ids=range(10))
def test_what_is_not_quoted(world, boots, words):
    world.run("bench", boots)
    world.refuse(words)


def test_not_all_of_scale(world):
    directory = world.run("scale", metas("scale")[:-1])
    world.refuse(f"not all of make scale FULL=1; .* RESUME={directory.parent}/latest")


def test_not_all_of_its_modes(world):
    world.run("scale", metas("scale", results=[{"name": "mapped"}]))
    world.refuse("make scale FULL=1 does")


def test_a_run_without_a_table(world):
    (world.run("bench") / "table.json").unlink()
    world.refuse("not a run of make bench that passed")


def test_a_run_without_its_pictures(world):
    (world.run("bench") / "stages.svg").unlink()
    world.refuse("has no stages.svg: make bench again")


def test_another_command(world):
    world.run("bench", name="20260101-000000-check")
    world.refuse("not a run of make bench, scale, profile")


# --- a revision ---

def judged(world, **more):
    directory = world.runs / "20260101-000000-revision-2"
    directory.mkdir()
    write_json(directory / "revision.json", document(**{"matrix": [], **more}))
    for name in ("mail.txt", "report.html"):
        (directory / name).write_text(name)
    (world.runs / "latest").symlink_to(directory.name)


def test_the_report_of_a_revision(world):
    judged(world)
    assert world.reference() == 0
    assert world.names() == {"revision.json", "revision.txt", "revision.html"}
    assert (world.root / "results" / "revision.txt").read_text() == "mail.txt"


@pytest.mark.parametrize("some", [
    {"archs": ["x86"]}, {"patches": [{**document()["patches"][0], "judged": False}]}], ids=str)
def test_a_revision_of_which_not_all_was_judged(world, some):
    judged(world, **some)
    world.refuse("did not judge all of the series on arm64 and x86")


# --- the README ---

def test_bases_stand_side_by_side():
    def of(price):
        rows = [{"mode": "mapped", "price": price, "range": 1, "ratio": None},
                {"mode": "fast_minor", "price": price + 0.4, "range": 1, "ratio": 2.034}]
        return {"machines": [{"name": name, "prices": rows} for name in ("arm64/vhe", "x86/npt")]}
    bases = {"v6.12": of(4218), "mainline": of(3173)}
    lines = template.render("readme.txt", documents=bases).splitlines()
    assert lines[:2] == ["arm64/vhe                  v6.12  vs sharded  mainline  vs sharded",
                         "mapped                      4218                  3173"]
    assert "fast_minor                  4218       2.03x      3173       2.03x" in lines
    assert "empty_exit                     -                     -" in lines
    assert len(lines) == 2 * (10 + 1) + 1


def test_the_text_between_the_markers(monkeypatch):
    monkeypatch.setattr(template, "render", lambda name, **values: "1\n\n2\n")
    text = f"a\n{readme.BEGIN}old\n{readme.END}b\n"
    once = readme.in_readme(text, {})
    assert once == f"a\n{readme.BEGIN}    1\n\n    2\n{readme.END}b\n"
    assert readme.in_readme(once, {}) == once
