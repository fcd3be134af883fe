# SPDX-License-Identifier: GPL-2.0
"""Builds: steps and their logs, the cache, git in isolation, what guest.mk is told."""
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from ci import config as config_
from ci.build import cache, config_check, files, git, images, progress, source
from ci.config import Config
from ci.facts import arch
from ci.facts.text import ROOT, BadInput

# --- git ---

PERSON = {"gpgsign": "[commit]\n\tgpgsign = true\n[user]\n\tsigningkey = none\n",
          "autocrlf": "[core]\n\tautocrlf = true\n", "noprefix": "[diff]\n\tnoprefix = true\n",
          "hooks": "[core]\n\thooksPath = {home}/hooks\n",
          "format": "[format]\n\tsignOff = true\n\tattach = yes\n\tsubjectPrefix = RFC\n"}


@pytest.fixture(params=PERSON)
def home(request, tmp_path, monkeypatch):
    """A person with a configuration that changes what git does, and a hook that refuses."""
    place = tmp_path / "home"
    (place / "hooks").mkdir(parents=True)
    for name in ("pre-commit", "post-checkout"):
        (place / "hooks" / name).write_text("#!/bin/sh\nexit 1\n")
        (place / "hooks" / name).chmod(0o755)
    (place / ".gitconfig").write_text(PERSON[request.param].format(home=place))
    monkeypatch.setenv("HOME", str(place))
    return place


def repository(path: pathlib.Path) -> pathlib.Path:
    path.mkdir()
    git.git(path, "init", "-q")
    for text in ("1\n2\n3\n", "1\ntwo\n3\n"):
        (path / "file").write_text(text)
        git.git(path, "add", "-A")
        git.git(path, "commit", "-q", "-m", "Change\n\nSigned-off-by: A <a@localhost>")
    return path


def test_git_does_not_ask_a_person(home, tmp_path):
    tree = repository(tmp_path / "tree")
    git.git(tree, "checkout", "-q", "-f", "--detach", "HEAD~")
    git.git(tree, "checkout", "-q", "-f", "--detach", "HEAD@{1}")
    assert (tree / "file").read_bytes() == b"1\ntwo\n3\n"
    assert "+++ b/file" in git.git(tree, "diff", "HEAD~", "HEAD")
    patch = git.git(tree, "format-patch", "-1", "--stdout", "-n")
    assert "[PATCH 1/1]" in patch and "+++ b/file" in patch and "boundary" not in patch
    assert patch.count("Signed-off-by") == 1


def test_another_repository_in_the_environment(tmp_path, monkeypatch):
    """git rebase --exec in a linked worktree sets GIT_DIR."""
    ours, other = git.git(ROOT, "rev-parse", "HEAD"), repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", "nowhere")
    assert git.git(ROOT, "rev-parse", "HEAD") == ours
    assert git.git(other, "rev-parse", "HEAD") != ours


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a repository away")
def test_a_repository_of_another_user(tmp_path):
    tree = repository(tmp_path / "tree")
    subprocess.run(["chown", "-R", "nobody", str(tree)], check=True)
    assert len(git.git(tree, "rev-parse", "HEAD")) == 40


def test_what_git_refuses_is_said(tmp_path):
    with pytest.raises(BadInput, match="git rev-parse in .*not a git repository"):
        git.git(tmp_path, "rev-parse", "HEAD")


def test_this_repository_is_named():
    assert git.repository() == git.git(ROOT, "describe", "--always", "--dirty")


# --- source ---

def test_the_cover_letter_is_not_part_of_what_is_built(tmp_path):
    have = []
    for name in ("0001-a.patch", "0000-cover-letter.patch", "0010-b.patch"):
        (tmp_path / name).write_text("text")
        config = Config(cache=str(tmp_path / name))   # another one, which has not been asked for
        config.__dict__["base_facts"] = dataclasses.replace(config.base_facts, directory=tmp_path)
        have.append(source.of(config))
    assert have[0].identity == have[1].identity != have[2].identity
    assert have[0].series_sha256 == have[1].series_sha256 != have[2].series_sha256


def test_somebodys_commits_are_pinned(tmp_path):
    tree = repository(tmp_path / "tree")
    have = source.of(Config(kernel=str(tree), series="HEAD~..HEAD"))
    assert list(have.commits) == git.git(tree, "rev-parse", "HEAD~", "HEAD").split()
    assert not have.series_sha256
    git.git(tree, "commit", "-q", "--allow-empty", "-m", "meanwhile")
    again = source.of(Config(kernel=str(tree), series="HEAD~..HEAD", ops=7))
    assert again.commits == have.commits   # for all of this run, whatever else differs
    git.git(tree, "reset", "-q", "--hard", "HEAD~")
    base = source.of(Config(kernel=str(tree), series="base"))
    assert base.commits == (git.git(tree, "rev-parse", "HEAD"),) and base.identity != have.identity


# --- the cache ---

def test_cache_keeps_what_was_found(tmp_path):
    store = cache.Cache(tmp_path)
    assert store.once("kind", [1], lambda: {"a": 1}) == {"a": 1}
    assert store.once("kind", [1], lambda: pytest.fail("asked again")) == {"a": 1}
    assert store.get("kind", [2]) is None and store.once("kind", [2], lambda: None) is None


@pytest.mark.parametrize("damage", [lambda text: text[:-9], lambda text: text.replace("7", "8"),
                                    lambda text: "", lambda text: "[]"])
def test_a_damaged_entry_is_none(tmp_path, damage):
    store = cache.Cache(tmp_path)
    store.put("kind", ["in"], {"value": 7})
    path = store.path("kind", ["in"])
    path.write_text(damage(path.read_text()))
    assert store.get("kind", ["in"]) is None


def test_kept_files_are_whole(tmp_path):
    store, place = cache.Cache(tmp_path / "cache"), tmp_path / "files"
    place.mkdir()
    (place / "one").write_text("1")
    kept = store.keep_files("kind", ["in"], place)
    assert store.files("kind", ["in"]) == kept and (kept / "one").read_text() == "1"
    (kept / "one").write_text("2")
    assert store.files("kind", ["in"]) is None
    assert store.keep_files("kind", ["in"], place) == kept and (kept / "one").read_text() == "1"


def test_json_is_whole_or_not_there(tmp_path):
    files.write_json(tmp_path / "a.json", {"a": [1]})
    assert files.read_json(tmp_path / "a.json") == {"a": [1]}
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "a.json", {"a": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1]}


# --- steps ---

def test_a_step_says_how_long_it_took(tmp_path, capsys):
    progress.step("a step", tmp_path / "logs" / "a.log", ["sh", "-c", "echo note: look; echo x"])
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("  a step ") and out[0].endswith(" s") and out[1] == "  note: look"


def test_a_step_that_fails_shows_its_first_errors(tmp_path, capsys):
    script = "echo a.c:1: error: first; seq 100; echo make: '***' last; exit 3"
    with pytest.raises(BadInput, match=r"a step failed \(exit 3\).*a.log"):
        progress.step("a step", tmp_path / "a.log", ["sh", "-c", script])
    said = [line.strip() for line in capsys.readouterr().err.splitlines()]
    assert said[0] == "a.c:1: error: first" and said[-1] == "make: *** last" and "99" in said


def test_our_own_lines_are_not_cut(tmp_path, capsys):
    with pytest.raises(BadInput):
        progress.step("a", tmp_path / "a.log", ["sh", "-c", f"echo apply: {'x' * 300}; exit 1"])
    assert "x" * 300 in capsys.readouterr().err


def wait_for(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def uses(directory: pathlib.Path) -> bool:
    for path in pathlib.Path("/proc").glob("[0-9]*/cwd"):
        try:
            if path.readlink() == directory:
                return True
        except OSError:
            pass
    return False


@pytest.mark.parametrize("number, command", [(signal.SIGINT, "sleep 60; touch done"),
                                             (signal.SIGKILL, "sleep 60")])
def test_what_was_begun_ends_with_us(tmp_path, number, command):
    (tmp_path / "Makefile").write_text(f"all:\n\ttouch begun\n\t{command}\n")
    # What was started in the background of a script ignores ctrl-C.
    code = ("import signal, sys; from ci.build import progress;"
            "signal.signal(signal.SIGINT, signal.default_int_handler);"
            "progress.call(['make'], None, cwd=sys.argv[1])")
    us = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: (tmp_path / "begun").exists())
    us.send_signal(number)
    us.wait(10)
    wait_for(lambda: not uses(tmp_path))


def test_time_left():
    left = progress.TimeLeft([1, 1, 2])
    assert str(left) == ""
    left.add(1, 120)
    assert str(left) == ", some 6 min left"
    left.add(1, 0.1)   # was known
    assert str(left) == ", some 4 min left"


# --- locks ---

def test_a_second_one_waits(tmp_path, capfd):
    code = ("import pathlib, sys, time; from ci.build import images\n"
            "with images.alone(pathlib.Path(sys.argv[1]), 'does this'):\n"
            " print('in', flush=True); time.sleep(0.5); print('out', flush=True)")
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], cwd=ROOT,
                             stdout=subprocess.PIPE, text=True) for _ in range(2)]
    texts = [process.communicate(timeout=20)[0] for process in both]
    assert sum("another make does this; waiting for it" in text for text in texts) == 1
    assert all(text.endswith("in\nout\n") for text in texts)


# --- what guest.mk is told ---

def variables(config: Config, **more: str) -> dict[str, str]:
    argv = images.guest_make(config, arch.load("x86"), "kernel", **more)
    return dict(word.split("=", 1) for word in argv if "=" in word)


def test_guest_make():
    have = variables(Config(config="debug", jobs=3), SERIES="mutant")
    assert (have["ARCH"], have["SERIES"], have["CONFIG"]) == ("x86", "mutant", "debug")
    assert have["CACHE"].startswith("/") and len(have["SERIES_ID"]) == 8
    programs = have["PROGRAMS"].split()
    assert "memslot_flag_test" in programs and "dirty_log_test" in programs
    assert "fault_bench" in programs and len(programs) == len(set(programs))


def test_toolchain_is_guest_mks_answer():
    have = images.toolchain(Config(), arch.load("arm64"))
    assert have.version.startswith(f"{have.cross}gcc") and "ld" in have.linker
    assert f"CC=ccache {have.cross}gcc" in have.variables and "HOSTCC=ccache gcc" in have.variables
    assert ROOT / "guest-images" / "kernel.config" in have.fragments
    debug = images.toolchain(Config(config="debug"), arch.load("arm64"))
    assert set(have.fragments) < set(debug.fragments)


def test_another_compiler_is_another_answer(tmp_path, monkeypatch):
    """With LLVM=1, gcc's version once was what results named."""
    for name in ("clang", "ld.lld", "llvm-strip"):
        tool = tmp_path / name
        tool.write_text(f"#!/bin/sh\necho {name} version 99\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{config_.environment()['PATH']}")
    have = images.toolchain(Config(llvm="1", jobs=77), arch.load("x86"))
    assert (have.version, have.linker) == ("clang version 99", "ld.lld version 99")
    assert "CC=ccache clang" in have.variables and "LLVM=1" in have.variables


def test_missing_compiler():
    """Before anything is built, in one line."""
    other = "x86" if "aarch64" not in os.uname().machine else "arm64"
    name = next(name for name in arch.names() if name != other)
    with pytest.raises(BadInput, match=r"^not found: no-such-gcc.*run make deps.*LLVM=$"):
        images.toolchain(Config(cross_compile="no-such-"), arch.load(name))


def test_lost_lines_of_a_configuration(tmp_path):
    (tmp_path / "config").write_text("CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_D=m\n")
    (tmp_path / "one").write_text("# why\nCONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\n")
    (tmp_path / "two").write_text("CONFIG_D=y\n# CONFIG_B is not set\n")
    lost = list(config_check.lost(tmp_path / "config", [tmp_path / "one", tmp_path / "two"]))
    assert lost == [f"{tmp_path}/two:1: CONFIG_D=y did not survive, the kernel has m"]
    with pytest.raises(BadInput, match="1 lines of the configuration are lost"):
        config_check.check(tmp_path / "config", [tmp_path / "two"])
    (tmp_path / "one").write_text("CONFIG A\n")
    with pytest.raises(BadInput, match="one:1: not a Kconfig line"):
        list(config_check.lost(tmp_path / "config", [tmp_path / "one"]))


def test_clean_removes_nothing_of_others(tmp_path):
    (tmp_path / "precious").write_text("")
    with pytest.raises(BadInput, match="was not built by this Makefile"):
        images.clean(Config(o=str(tmp_path)))
    assert (tmp_path / "precious").exists()


def test_the_base_of_a_range(tmp_path):
    """Upstream's tests are compared with the commit that the range starts from."""
    tree = repository(tmp_path / "tree")
    config = Config(kernel=str(tree), series="HEAD~..HEAD")
    base = dataclasses.replace(config, base_only=True)
    assert source.of(base).commits == source.of(config).commits[:1]
    assert (base.series_name, base.range) == ("base", "HEAD~..HEAD")


# --- scripts, wherever CDPATH leads ---

def said_by_deps(place: pathlib.Path, **more: str) -> str:
    """What ci/deps says where everything is installed."""
    (place / "bin").mkdir(exist_ok=True)
    (place / "bin" / "dpkg-query").write_text("#!/bin/sh\necho installed\n")
    (place / "bin" / "dpkg-query").chmod(0o755)
    path = f"{place}/bin:{config_.environment()['PATH']}"
    environment = {**config_.environment(), "PATH": path, **more}
    return subprocess.run(["ci/deps"], cwd=ROOT, env=environment,
                          capture_output=True, text=True, check=True).stdout


def test_deps_stays_here(tmp_path):
    (tmp_path / "elsewhere" / "ci").mkdir(parents=True)
    said = said_by_deps(tmp_path)
    assert said.startswith("deps: all ")
    assert said_by_deps(tmp_path, CDPATH=str(tmp_path / "elsewhere")) == said


@pytest.mark.parametrize("script", ["bench/dist/run-tests", "bench/dist/run-bench"])
def test_dist_finds_itself(tmp_path, script):
    """Called as DIRECTORY/run-tests: cd then says where it went, which is no part of the name."""
    (tmp_path / "dist").mkdir()
    text = (ROOT / script).read_text()
    head = text[:text.index("\n", text.index("here=$("))]
    (tmp_path / "dist" / "x").write_text(f"{head}\necho \"$here\"\n")
    done = subprocess.run(["bash", "dist/x"], cwd=tmp_path, capture_output=True, text=True,
                          env={**config_.environment(), "CDPATH": ".:/"}, check=True)
    assert done.stdout == f"{tmp_path}/dist\n"
