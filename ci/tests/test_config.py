# SPDX-License-Identifier: GPL-2.0
"""Knobs: each is read once, refused in one line, and repeated where it has to be."""
import dataclasses

import pytest

from ci import __main__ as main
from ci import config
from ci.config import Config
from ci.facts.text import BadInput

REFUSED = [
    ({"ARCH": "riscv"}, "unknown ARCH=riscv; choose one of: arm64 x86"),
    ({"SERIES": "mine"}, "unknown SERIES=mine; choose one of: patched base"),
    ({"SERIES": "HEAD~2..HEAD"}, "unknown SERIES=HEAD~2..HEAD; choose one of"),
    ({"BASE": "../kernel-patches/v6.12"}, "unknown BASE="),
    ({"BASE": "v6.12 mainline"}, "unknown BASE="),
    ({"CONFIG": "huge"}, "unknown CONFIG=huge; there is no guest-images/huge.config"),
    ({"ACCEL": "hvf"}, "ACCEL=hvf: choose tcg, kvm"),
    ({"CPUS": "0"}, "CPUS=0: want a whole number above 0"),
    ({"CPUS": "two"}, "CPUS=two: want a whole number"),
    ({"TIMEOUT": "-1"}, "TIMEOUT=-1: want a whole number"),
    ({"SEED": "٣"}, "SEED=٣: want a whole number"),
    ({"FULL": "yes"}, "FULL=yes: choose 1, or leave it unset"),
    ({"VCPUS": "1 0"}, "VCPUS=1 0: want a whole number above 0"),
    ({"BOOTS": "0"}, "BOOTS=0: want a whole number above 0"),
    ({"MATRIX": "some"}, "MATRIX=some: choose all"),
    ({"O": "a b"}, "O=a b: no spaces"),
    ({"CACHE": "a b"}, "CACHE=a b: no spaces"),
    ({"KERNEL": "/a b"}, "KERNEL=/a b: no spaces"),
    ({"MAKEFLAGS": "w -- CASE=x ARCH=x86"}, "CASE=: there is no such knob; do you mean CASES=?"),
    ({"MAKEFLAGS": " -- QQQQ=1"}, "QQQQ=: there is no such knob; make help lists them"),
]


@pytest.mark.parametrize("environ, words", REFUSED, ids=lambda value: str(value)[:30])
def test_refused(environ, words):
    with pytest.raises(BadInput) as refusal:
        config.load(environ)
    assert str(refusal.value).startswith(words) and "\n" not in str(refusal.value)


def test_what_is_not_given():
    have = config.load({})
    assert (have.base, have.series_name, have.cpus, have.seed) == ("v6.12", "patched", 2, None)
    assert [arch.name for arch in have.archs] == ["arm64", "x86"]
    assert str(have.out) == "build/v6.12" and have.results == "results" and have.jobs > 0
    assert have.given("cases", "mode", "vcpus") == []


def test_as_given():
    have = config.load({"ARCH": "x86_64", "CASES": "a*,b c", "SEED": "0", "VCPUS": "4 1 4",
                        "OF": "HEAD", "CPUS": "", "MAKEFLAGS": "w -- ARCH=x86_64 CASES=a*,b\\ c"})
    assert have.arch == ("x86",) and have.cases == ("a*", "b", "c") and have.seed == 0
    assert have.vcpus == (1, 4) and have.revision == "HEAD" and have.cpus == 2
    assert have.given("cases") == ["'CASES=a* b c'", "SEED=0"]


def test_other_places():
    have = config.load({"O": "elsewhere", "XDG_CACHE_HOME": "ignored here"})
    assert have.results == "elsewhere/results" and have.given() == ["O=elsewhere"]


def test_somebodys_tree():
    have = config.load({"KERNEL": "/linux", "SERIES": "HEAD~8..HEAD"})
    assert (have.base, have.range, have.series_name) == ("mainline", "HEAD~8..HEAD", "patched")
    assert str(have.out) == "build/kernel"
    assert have.given() == ["'SERIES=HEAD~8..HEAD'", "KERNEL=/linux"]
    assert config.load({"KERNEL": "/linux", "BASE": "v6.12"}).given() == ["BASE=v6.12",
                                                                         "KERNEL=/linux"]


def test_children_do_not_inherit_knobs(monkeypatch):
    for name in ("CASES", "OF", "GIT_DIR", "MAKEFLAGS", "CDPATH", "HARNESS_BOOT_SECONDS"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("NOT_A_KNOB", "x")
    have = config.environment(MORE="y")
    assert have["NOT_A_KNOB"] == "x" and have["MORE"] == "y"
    assert not {"CASES", "OF", "GIT_DIR", "MAKEFLAGS", "CDPATH", "HARNESS_BOOT_SECONDS"} & set(have)


def test_every_knob_is_in_the_help():
    text = "\n".join(config.help_lines())
    for field in dataclasses.fields(Config):
        assert field.metadata["text"] == "-" or field.name.upper() in text


def test_help_is_one_screen(capsys):
    assert main.main(["help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 45 and max(map(len, lines)) <= 100


def test_what_a_command_sets_itself(monkeypatch, capsys):
    for command, knob in (("revision", "CASES"), ("fuzz", "MODE"), ("coverage", "CONFIG")):
        monkeypatch.setenv(knob, "debug")
        assert main.main([command]) == main.HARNESS
        assert f"ci: {command} sets {knob} itself" in capsys.readouterr().err
        monkeypatch.delenv(knob)


def test_commands_that_judge_our_series_alone(monkeypatch, capsys):
    monkeypatch.setenv("KERNEL", "/linux")
    for command in ("check-mutants", "revision", "series", "coverage", "reference"):
        assert main.main([command]) == main.HARNESS
        assert "KERNEL= is for somebody's tree" in capsys.readouterr().err


def test_unknown_command(capsys):
    assert main.main(["chekc"]) == main.HARNESS
    assert capsys.readouterr().err == "ci: chekc: no such command; make help lists them\n"


def test_make_knows_every_command():
    text = (main.ROOT / "Makefile").read_text().replace("\\\n", "").splitlines()
    line = next(line for line in text if line.startswith("commands"))
    assert sorted(line.partition(":=")[2].split()) == sorted(
        command.name for command in main.COMMANDS if command.text or command.name == "help")


def test_every_command_is_there():
    for command in main.COMMANDS:
        assert callable(main.function_of(command)), command.name


def test_a_hidden_knob_is_nobodys_by_accident():
    assert config.load({"IMAGES": "mine", "BASE_ONLY": "1"}) == config.load({})
    assert config.load({"HARNESS_IMAGES": "mine"}).images == "mine"


def test_words_are_no_knobs(capsys):
    assert main.main(["clean", "O=elsewhere"]) == main.HARNESS
    assert "make clean O=elsewhere" in capsys.readouterr().err


def test_a_crash_is_no_verdict(monkeypatch, capsys):
    def crash(_):
        raise KeyError("a")
    monkeypatch.setattr(main, "function_of", lambda command: crash)
    assert main.main(["check"]) == main.HARNESS
    said = capsys.readouterr().err
    assert "Traceback" in said and said.endswith("ci: a fault of this program, above\n")


def test_a_missing_program_is_named(monkeypatch, capsys):
    def fail(error):
        def function(_):
            raise error
        return function
    for error, words in ((FileNotFoundError(2, "No such file", "setpriv"), "run make deps"),
                         (FileNotFoundError(2, "No such file", "o/x86.kernel"), "make images has"),
                         (ImportError("No module named 'jinja2'"), "run make deps")):
        monkeypatch.setattr(main, "function_of", lambda command, error=error: fail(error))
        assert main.main(["check"]) == main.HARNESS
        assert words in capsys.readouterr().err


def test_makes_own_number_of_jobs():
    assert config.load({"MAKEFLAGS": " -j3 --jobserver-auth=3,4 -- ARCH=x86"}).jobs == 3
    assert config.load({"MAKEFLAGS": "kw -j7"}).jobs == 7
    assert config.load({"MAKEFLAGS": " -j3", "JOBS": "5"}).jobs == 5


def test_a_quote_in_a_knob():
    have = config.load({"CASES": "it's", "MAKEFLAGS": "w -- CASES=it's MODE=a\\ b=c"})
    assert have.cases == ("it's",)


def test_two_names_of_one_knob():
    with pytest.raises(BadInput, match="REVISION= and OF= are one knob"):
        config.load({"REVISION": "a", "OF": "b"})


def test_an_architecture_once():
    assert config.load({"ARCH": "x86 x86_64"}).arch == ("x86",)
