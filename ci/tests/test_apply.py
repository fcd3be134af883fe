# SPDX-License-Identifier: GPL-2.0
"""kernel-patches/apply, kernel-patches/fetch and make, given what they must refuse."""
import os
import pathlib
import re
import shutil
import subprocess

import pytest

from ci import config
from ci.build import git
from ci.facts.text import ROOT

PATCHES = ROOT / "kernel-patches"


class Place:
    """A kernel of one file, a series of two patches, and what apply makes of them."""

    def __init__(self, root):
        self.root, self.tree, self.mine = root, root / "tree", root / "mine"
        self.before = None
        # apply itself has to see to locks, and to trees of other users.
        self.env = {name: value for name, value in git.environment().items()
                    if name not in ("GIT_OPTIONAL_LOCKS", "GIT_CONFIG_COUNT")}

    def sh(self, command):
        subprocess.run(command, shell=True, check=True, cwd=self.root, env=self.env,
                       stdout=subprocess.DEVNULL)

    def apply(self, series="patched"):
        done = subprocess.run([PATCHES / "apply", "series", series, "cache", "tree"],
                              cwd=self.root, env=self.env, capture_output=True, text=True)
        return done.returncode, done.stderr

    def accept(self, series="patched"):
        assert self.apply(series) == (0, "")

    def refuse(self, words):
        status, err = self.apply()
        assert status == 2, err
        assert re.search(words, err.splitlines()[-1])
        return err

    def patch(self, number):
        return next((self.root / "series").glob(f"{number:04}-*.patch"))

    def edit(self, number, old, new):
        """Returns the text of the patch as it was."""
        text = self.patch(number).read_text()
        assert old in text
        self.patch(number).write_text(text.replace(old, new))
        return text

    def cut(self, number, words):
        """Off the patch, from the last place of these words."""
        text = self.patch(number).read_text()
        self.patch(number).write_text(text[:text.rindex(words)])

    def file(self):
        return (self.tree / "file").read_text()

    def with_mine(self):
        self.env["KERNEL"] = str(self.mine)
        self.before = self.all_of_mine()
        return self

    def all_of_mine(self):
        """What must not change: names, contents, and no file is written anew."""
        return {path: (path.lstat().st_ino, path.lstat().st_mode,
                       path.is_file() and path.read_bytes()) for path in self.mine.rglob("*")}


def make_series(place):
    shutil.rmtree(place.root, ignore_errors=True)
    place.root.mkdir()
    place.sh("mkdir linux series && seq 20 > linux/file && tar -cf linux.tar linux && cd linux &&"
             "mkdir -p virt/kvm && echo kvm > virt/kvm/kvm_main.c &&"
             "git init -q && git add . && git commit -qm base && git tag base &&"
             "sed -i s/^3$/three/ file && git commit -qam 'Spell out 3' &&"
             "sed -i s/^9$/nine/ file && git commit -qam 'Spell out 9' &&"
             "git format-patch -q --cover-letter -o ../series base")
    (place.root / "series" / "base").write_text(
        f"package = linux-of-one-file\ntarball = {place.root}/linux.tar\n")


def make_mine(place):
    """Somebody's git tree, which has two commits that the series does not know of."""
    place.sh("git clone -q linux mine && cd mine && git checkout -q base &&"
             "mkdir -p include/uapi/linux &&"
             "echo KVM_MEM_ABSENT_MAPPING_FAULT > include/uapi/linux/kvm.h && echo a > a &&"
             "git add a include && git commit -qm a &&"
             "sed -i s/^15$/fifteen/ file && git commit -qam b && git tag -f base HEAD &&"
             "rm ../series/0000-*")


def make_built(place):
    place.with_mine().accept()
    assert place.all_of_mine() == place.before


# Name: the state that it is made of, and how
STATES = {"series": ("", make_series),
          "based": ("series", lambda place: place.accept("base")),
          "patched": ("based", Place.accept),
          "mine": ("series", make_mine),
          "built": ("mine", make_built)}


class States:
    """Each is made once, and copied for each test, to the same path: git keeps paths."""

    def __init__(self, directory):
        self.directory = directory

    def put(self, name):
        place, kept = Place(self.directory / "root"), self.directory / name
        if not kept.exists():
            before, make = STATES[name]
            if before:
                self.put(before)
            make(place)
            for samples in list(place.root.rglob("hooks")):   # fewer files to copy
                shutil.rmtree(samples)
            shutil.copytree(place.root, kept, symlinks=True)
        shutil.rmtree(place.root)
        shutil.copytree(kept, place.root, symlinks=True)
        return place


@pytest.fixture(scope="module", name="states")
def fixture_states(tmp_path_factory):
    return States(tmp_path_factory.mktemp("apply"))


@pytest.fixture(name="series")
def fixture_series(states):
    """Nothing has been applied, and no base is in the cache."""
    return states.put("series")


@pytest.fixture(name="based")
def fixture_based(states):
    return states.put("based")


@pytest.fixture(name="patched")
def fixture_patched(states):
    return states.put("patched")


@pytest.fixture(name="kernel")
def fixture_kernel(states):
    """With KERNEL=, of which nothing may change; a test that changes it says so."""
    place = states.put("mine").with_mine()
    yield place
    assert place.all_of_mine() == place.before


@pytest.fixture(name="built")
def fixture_built(states):
    """As kernel, and the series has been applied to it."""
    place = states.put("built").with_mine()
    yield place
    assert place.all_of_mine() == place.before


# --- the series on a base ---

def test_base_and_patched(based):
    assert "three" not in based.file()
    shutil.rmtree(based.tree)
    based.accept()
    assert "three" in based.file() and "nine" in based.file()


def test_nothing_to_do_touches_nothing(patched):
    before = (patched.tree / "file").stat()
    patched.accept()
    after = (patched.tree / "file").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_changed_patch_is_applied_anew(patched):
    patched.edit(2, "+nine", "+NINE")
    patched.accept()
    assert "NINE" in patched.file()


def test_does_not_apply(based):
    based.edit(1, "-3\n", "-4\n")
    err = based.refuse(r"0001-.*\.patch does not apply to linux-of-one-file")
    assert "patch failed" in err


def test_a_mended_patch_applies_again(patched):
    good = patched.edit(2, "-9\n", "-8\n")
    patched.refuse("does not apply")
    patched.patch(2).write_text(good)
    patched.accept()
    assert "nine" in patched.file()


def test_a_cover_letter_alone_is_no_series(series):
    for number in (1, 2):
        series.patch(number).unlink()
    series.refuse("no patches in series")


def test_a_patch_by_another_name(series):
    series.patch(2).rename(series.root / "series" / "mine.patch")
    series.refuse("mine.patch: a patch is called")


def test_broken_cache(based):
    shutil.rmtree(based.tree)
    objects, = (based.root / "cache").glob("*/.git/objects")
    shutil.rmtree(objects)
    based.refuse("cached base .* is broken.*remove it")


def test_another_repository_in_the_environment(series):
    series.sh("git init -q victim")
    victim = series.root / "victim" / ".git"
    series.env["GIT_DIR"] = str(victim)
    series.accept()
    assert not any((victim / "refs" / "heads").iterdir())


def test_a_run_that_was_cut_off_leaves_nobodys_work(patched):
    patched.sh("cd tree && touch .git/busy && rm .git/applied &&"
               "echo half > file && git commit -qam half")
    patched.accept()
    assert "nine" in patched.file()
    assert not (patched.tree / ".git" / "busy").exists()


def test_a_failure_leaves_the_tree_for_the_next_run(based):
    based.edit(2, "-9\n", "-8\n")
    based.refuse("does not apply")
    assert not (based.tree / ".git" / "busy").exists()


def test_an_object_is_missing(based):
    shutil.rmtree(based.tree)
    based.sh("cd cache/linux-of-one-file-* && mv .git/objects/pack/*.pack .. &&"
             "rm -f .git/objects/pack/* && cat ../*.pack | git unpack-objects -q &&"
             "rm ../*.pack && blob=$(git rev-parse base:file) &&"
             "rm .git/objects/${blob%${blob#??}}/${blob#??}")
    based.refuse("objects are missing from .*cache/linux-of-one-file-.*can be removed")
    assert not based.tree.exists()


def test_objects_are_in_one_pack(based):
    loose = list((based.root / "cache").glob("*/.git/objects/??/*"))
    assert len(loose) <= 2   # the commit and its tree


@pytest.mark.parametrize("number, word", [(1, "three"), (2, "nine")])
def test_a_patch_that_the_base_has(series, number, word):
    """Stable takes some: it stays as a commit, so that a commit is a patch."""
    digit = {"three": 3, "nine": 9}[word]
    series.sh(f"mkdir x && cd x && mkdir linux && seq 20 | sed s/^{digit}$/{word}/ > linux/file &&"
              "tar -cf ../linux.tar linux")
    status, said = series.apply()
    assert status == 0 and said.startswith(f"note: linux-of-one-file has patch {number} already")
    assert "three" in series.file() and "nine" in series.file()
    count = git.git(series.tree, "rev-list", "--count", "origin/base..HEAD")
    empty = git.git(series.tree, "log", "-1", f"--skip={2 - number}", "--format=%B")
    assert count == "2" and empty.endswith("(in the base already)")
    assert git.git(series.tree, "status", "--porcelain") == ""
    series.accept()   # and nothing is to be done


def test_already_applied(based):
    based.patch(2).write_text(based.patch(1).read_text())
    based.refuse(r"0002-.*\.patch does not apply")


def test_truncated(series):
    series.cut(2, "+nine")
    series.refuse("0002-.*is truncated")


def test_without_a_signature(based):
    """Lists and editors take it away; git am does not ask for it."""
    based.cut(2, "-- \n")
    based.accept()


def test_cut_between_two_hunks(series):
    series.sh("cd linux && seq 40 > file && git commit -qam long &&"
              "sed -i '1s/1/one/; 40s/40/forty/' file && git commit -qam both &&"
              "git format-patch -q -1 --start-number 3 -o ../series")
    series.cut(3, "@@ -3")
    series.refuse("0003-.*is truncated: it changes less than its diffstat says")


def test_crlf(series):
    series.patch(1).write_bytes(series.patch(1).read_bytes().replace(b"\n", b"\r\n"))
    series.refuse("0001-.*CRLF")


def test_a_patch_is_missing(series):
    series.patch(1).unlink()
    series.refuse("holds 1 patches, .* has 2")


def test_empty_series(series):
    for patch in (series.root / "series").glob("*.patch"):
        patch.unlink()
    series.refuse("no patches in series")


def test_missing_tarball(series):
    (series.root / "linux.tar").unlink()
    series.refuse("linux.tar is missing: install linux-of-one-file")


def test_broken_tarball_leaves_no_cache(series):
    (series.root / "linux.tar").write_text("not a tarball")
    series.refuse("cannot unpack")
    assert [path.name for path in (series.root / "cache").iterdir()] == ["lock"]


def test_uncommitted_work_is_not_lost(patched):
    (patched.tree / "file").write_text("mine\n")
    patched.edit(2, "+nine", "+NINE")
    patched.refuse("uncommitted changes")
    assert patched.file() == "mine\n"


def test_commits_are_not_lost(patched):
    patched.sh("cd tree && echo mine > file && git commit -qam mine")
    patched.edit(2, "+nine", "+NINE")
    patched.refuse("commits of yours")
    assert patched.file() == "mine\n"


# --- KERNEL=, somebody's git tree ---

def test_on_top_of_its_head(built):
    for word in ("three", "nine", "fifteen"):
        assert word in built.file()
    built.accept("base")
    assert "three" not in built.file()


def test_its_index_is_not_refreshed(kernel):
    kernel.sh("touch -d 2001-01-01 mine/a")
    kernel.accept()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_of_another_owner(kernel):
    kernel.sh("chown -R nobody mine")
    kernel.accept()
    assert "fifteen" in kernel.file()


def test_what_it_was_when_make_began(kernel):
    kernel.env["KERNEL_COMMITS"] = git.git(kernel.mine, "rev-parse", "HEAD~1")
    kernel.accept()
    assert "fifteen" not in kernel.file()


def test_merged_already(kernel):
    kernel.sh("cd mine && git am -q ../series/0001-*")
    kernel.before = kernel.all_of_mine()
    kernel.accept()
    assert "nine" in kernel.file()
    assert kernel.all_of_mine() == kernel.before
    kernel.sh("cd mine && git am -q ../series/0002-*")
    kernel.before = kernel.all_of_mine()
    kernel.refuse("has the whole series already: .*SERIES=HEAD~2..HEAD")


def test_not_a_tree_of_ours(built):
    built.sh("git -c advice.detachedHead=false clone -q mine tree/inner")
    for path in ("tree", "tree/inner"):
        built.env["KERNEL"] = str(built.root / path)
        built.refuse("a tree that make builds in")
    assert (built.tree / "inner" / "file").exists()


def test_what_is_left_after_a_conflict(kernel):
    """git am goes on with the patches after it."""
    kernel.edit(1, "-3\n", "-4\n")
    kernel.refuse(r"0001-.*\.patch does not apply")
    kernel.sh("cd tree && sed -i s/^3$/THREE/ file && git add file && git am --continue -q")
    assert "nine" in kernel.file()
    kernel.refuse("commits of yours")


def test_its_own_commits(kernel):
    kernel.env["RANGE"] = "HEAD~2..HEAD~1"
    kernel.accept()
    assert (kernel.tree / "a").exists()
    assert "fifteen" not in kernel.file() and "three" not in kernel.file()
    assert git.git(kernel.tree, "rev-list", "--count", "origin/base..HEAD") == "1"
    kernel.accept("base")
    assert not (kernel.tree / "a").exists()


def test_a_range_has_the_feature(kernel):
    kernel.sh("cd mine && git rm -q include/uapi/linux/kvm.h && git commit -qm without")
    kernel.before = kernel.all_of_mine()
    kernel.env["RANGE"] = "HEAD~1..HEAD"
    kernel.refuse("no KVM_MEM_ABSENT_MAPPING_FAULT at 'HEAD'")


def test_bad_ranges(kernel):
    for given, words in (("HEAD~2...HEAD", "two dots"), ("HEAD~2..", "two dots"),
                         ("HEAD~2..HEAD~1..HEAD", "two dots"),
                         ("nothing..HEAD", "has no commit 'nothing'"),
                         ("HEAD..HEAD", "holds no commits"),
                         ("HEAD..HEAD~1", "is no ancestor of")):
        kernel.env["RANGE"] = given
        kernel.refuse(words)


def test_a_conflict_is_left_for_a_person(kernel):
    good = kernel.edit(2, "-9\n", "-8\n")
    err = kernel.refuse(r"0002-.*\.patch does not apply to .*mine at .*git am waits in .*tree")
    assert "patch failed: file:" in err
    assert (kernel.tree / ".git" / "rebase-apply").is_dir()
    kernel.refuse("git am still waits in .*tree")
    kernel.sh("cd tree && git am --abort")
    kernel.patch(2).write_text(good)
    kernel.accept()


def test_another_tree_in_its_place(built):
    built.env["KERNEL"] = str(built.root / "linux")
    built.sh("cd linux && git checkout -q base")
    built.accept()
    assert "fifteen" not in built.file()


def test_a_worktree_that_is_shallow(kernel):
    kernel.sh("git -c advice.detachedHead=false clone -q --depth 1 file://$PWD/mine shallow &&"
              "cd shallow && git worktree add -q ../beside")
    kernel.env["KERNEL"] = str(kernel.root / "beside")
    kernel.accept()
    assert "fifteen" in kernel.file()


def test_what_is_not_committed_is_not_built(kernel):
    kernel.sh("sed -i 's/^15$/XV/; s/fifteen/XV/' mine/file")
    kernel.before = kernel.all_of_mine()
    status, err = kernel.apply()
    assert status == 0, err
    assert "not committed" in err
    assert "fifteen" in kernel.file()


def test_a_bare_repository(kernel):
    kernel.sh("git clone -q --bare mine bare.git")
    kernel.env["KERNEL"] = str(kernel.root / "bare.git")
    kernel.accept()
    assert "fifteen" in kernel.file()


def test_a_range_is_of_a_tree(based):
    based.env["RANGE"] = "a..b"
    based.accept()
    assert "three" in based.file()


def test_not_a_tree(kernel):
    kernel.sh("mkdir -p cache mine/inner/virt/kvm; touch mine/inner/virt/kvm/kvm_main.c;"
              "git init -q empty; cd empty; git commit -q --allow-empty -m a")
    kernel.before = kernel.all_of_mine()
    for path, words in (("cache", "is not a git tree"), ("empty", "is not a tree of Linux"),
                        ("mine/inner", "is within another git tree")):
        kernel.env["KERNEL"] = str(kernel.root / path)
        kernel.refuse(words)


# --- a package that is not installed, with a stand-in for apt-get ---

APT = """#!/bin/sh
case "$*" in *indextargets*) echo http://mirror/debian/; exit ;; esac
"""
DOWNLOAD = 'case "$*" in *"download "*) %s ;; esac\n'
BUILD = r"""
mkdir -p p/DEBIAN p/usr/src && echo source > p/usr/src/linux-source-9.9.tar.xz &&
printf "Package: linux-source-9.9\nVersion: 9.9.1-1\nArchitecture: all\n" > p/DEBIAN/control &&
printf "Maintainer: a <a@localhost>\nDescription: a\n" >> p/DEBIAN/control &&
dpkg-deb -Znone -b p linux-source-9.9_9.9.1-1_all.deb
"""


def fetch(root, script):
    """The exit status, the last line of stderr, what is left in the cache, and stdout."""
    packages = root / "cache" / "packages"
    (packages / "new.123456").mkdir(parents=True)   # as of a run that was killed
    (root / "bin").mkdir()
    (root / "bin" / "apt-get").write_text(APT + script)
    (root / "bin" / "apt-get").chmod(0o755)
    done = subprocess.run([PATCHES / "fetch", "linux-source-9.9", "sid", root / "cache"],
                          env={**os.environ, "PATH": f"{root}/bin:{os.environ['PATH']}"},
                          capture_output=True, text=True)
    left = [path.name for path in packages.iterdir()]
    return done.returncode, done.stderr.splitlines()[-1], left, done.stdout.strip()


def refuse_fetch(root, script, words):
    status, said, left, _ = fetch(root, script)
    assert (status, left) == (2, []), said
    assert re.search(words, said)


def test_a_package_that_has_gone(tmp_path):
    refuse_fetch(tmp_path,
                 DOWNLOAD % 'echo "E: Unable to locate package linux-source-9.9"; exit 100',
                 "sid has no linux-source-9.9 any more.*this base has moved on.*README")


def test_no_network(tmp_path):
    refuse_fetch(tmp_path, 'echo "E: could not resolve"; exit 100\n',
                 "no list of packages of sid: E: could not resolve")


def test_a_download_that_breaks_off(tmp_path):
    refuse_fetch(tmp_path, DOWNLOAD % 'echo "E: connection"; exit 100',
                 "cannot download linux-source-9.9: E: connection")


def test_what_is_fetched_is_kept(tmp_path):
    status, said, left, made = fetch(tmp_path, DOWNLOAD % BUILD)
    assert (status, left) == (0, ["linux-source-9.9_9.9.1-1"]), said
    assert pathlib.Path(made).read_text() == "source\n"


# --- make: one line on stderr, a non-zero exit, and nothing built ---

@pytest.fixture(name="refuse_make")
def fixture_refuse_make(tmp_path):
    def refuse(words, *arguments):
        done = subprocess.run(["make", "-C", ROOT, f"O={tmp_path}/o", *arguments],
                              env=config.environment(), capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        said = [line for line in done.stderr.splitlines() if "Error 2" not in line]
        assert len(said) == 1, done.stderr
        assert re.search(words, said[0])
        assert not (tmp_path / "o" / "v6.12" / "patched" / "linux").exists()
    return refuse


def test_unknown_arch(refuse_make):
    refuse_make("unknown ARCH=riscv; choose one of", "check", "ARCH=riscv")


def test_unknown_series(refuse_make):
    refuse_make("unknown SERIES=mine; choose", "check", "SERIES=mine")


@pytest.mark.parametrize("base", ["v1.0", "../kernel-patches/v6.12", "./v6.12", "v6.12/", "%"])
def test_unknown_base(refuse_make, base):
    refuse_make("unknown BASE=.*; choose one of", "clean", f"BASE={base}")


def test_unknown_config(refuse_make):
    refuse_make("unknown CONFIG=huge", "images", "CONFIG=huge")


def test_somebodys_tree_is_looked_at_first(refuse_make):
    refuse_make("is not a tree of Linux", "check", f"KERNEL={ROOT}")
    refuse_make("has no commit 'nothing'|is not a tree of Linux", "check", f"KERNEL={ROOT}",
                "SERIES=nothing..HEAD")


def test_a_range_without_a_tree(refuse_make):
    refuse_make("unknown SERIES=HEAD~2..HEAD; choose", "check", "SERIES=HEAD~2..HEAD")


def test_somebodys_tree_is_not_for_our_own_series(refuse_make):
    refuse_make("KERNEL= is for somebody's tree", "check-mutants", f"KERNEL={ROOT}")


@pytest.mark.parametrize("arch", ["arm64", "x86"])
def test_missing_cross_compiler(refuse_make, arch):
    refuse_make("not found: no-such-gcc.*run make deps", "-f", "guest-images/guest.mk",
                f"ARCH={arch}", "OUT=nowhere", "BASE=v6.12", "SERIES=patched",
                "CROSS_COMPILE=no-such-", "cross=none-linux-gnu-")
