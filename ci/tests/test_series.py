# SPDX-License-Identifier: GPL-2.0
"""kernel-patches/apply and make, given what they must refuse."""
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from ci.facts.arch import ROOT

APPLY = str(ROOT / "kernel-patches" / "apply")


def without_knobs():
    """The environment as if make had not been given a tree, also if it is make that runs this."""
    return {name: value for name, value in os.environ.items() if name not in ("KERNEL", "KERNEL_COMMITS", "RANGE", "OUT")}


class Fixture(unittest.TestCase):
    """A kernel of one file, and a series of two patches, made with the real tools."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name)
        self.git = {**without_knobs(), "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@localhost",
                    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@localhost",
                    "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
        self.make_tarball()
        self.make_patches()

    def sh(self, command):
        subprocess.run(command, shell=True, check=True, cwd=self.root, env=self.git,
                       stdout=subprocess.DEVNULL)

    def make_tarball(self):
        self.sh("mkdir -p linux series && seq 20 > linux/file && tar -cf linux.tar linux")
        (self.root / "series" / "base").write_text(
            f"package = linux-of-one-file\ntarball = {self.root}/linux.tar\n")

    def make_patches(self):
        self.sh("cd linux && git init -q . && git add . && git commit -qm base && git tag base &&"
                "sed -i s/^3$/three/ file && git commit -qam 'Spell out 3' &&"
                "sed -i s/^9$/nine/ file && git commit -qam 'Spell out 9' &&"
                "git format-patch -q --cover-letter -o ../series base")

    def apply(self, series="patched"):
        done = subprocess.run([APPLY, "series", series, "cache", "tree"], cwd=self.root,
                              env=self.git, capture_output=True, text=True)
        return done.returncode, done.stderr

    def patch(self, number):
        return next((self.root / "series").glob(f"{number:04}-*.patch"))

    def refuse(self, words):
        status, err = self.apply()
        self.assertEqual(status, 2, err)
        self.assertRegex(err.splitlines()[-1], words)
        return err

    def file(self):
        return (self.root / "tree" / "file").read_text()


class Series(Fixture):
    def test_base_and_patched(self):
        self.assertEqual(self.apply("base"), (0, ""))
        self.assertNotIn("three", self.file())
        shutil.rmtree(self.root / "tree")
        self.assertEqual(self.apply(), (0, ""))
        self.assertIn("three", self.file())
        self.assertIn("nine", self.file())

    def test_nothing_to_do_touches_nothing(self):
        self.apply()
        before = (self.root / "tree" / "file").stat().st_mtime_ns
        self.assertEqual(self.apply(), (0, ""))
        self.assertEqual((self.root / "tree" / "file").stat().st_mtime_ns, before)

    def test_a_changed_patch_is_applied_anew(self):
        self.apply()
        text = self.patch(2).read_text()
        self.patch(2).write_text(text.replace("+nine", "+NINE"))
        self.assertEqual(self.apply(), (0, ""))
        self.assertIn("NINE", self.file())

    def test_does_not_apply(self):
        self.patch(1).write_text(self.patch(1).read_text().replace("-3\n", "-4\n"))
        err = self.refuse(r"0001-.*\.patch does not apply to linux-of-one-file")
        self.assertIn("patch failed", err)

    def test_a_mended_patch_applies_again(self):
        self.apply()
        good = self.patch(2).read_text()
        self.patch(2).write_text(good.replace("-9\n", "-8\n"))
        self.refuse("does not apply")
        self.patch(2).write_text(good)
        self.assertEqual(self.apply(), (0, ""))
        self.assertIn("nine", self.file())

    def test_a_cover_letter_alone_is_no_series(self):
        for number in (1, 2):
            self.patch(number).unlink()
        self.refuse("no patches in series")

    def test_a_patch_by_another_name(self):
        self.patch(2).rename(self.root / "series" / "mine.patch")
        self.refuse("mine.patch: a patch is called")

    def test_broken_cache(self):
        self.apply("base")
        shutil.rmtree(self.root / "tree")
        for objects in (self.root / "cache").glob("*/.git/objects"):
            shutil.rmtree(objects)
        self.refuse("cached base .* is broken.*remove it")

    def test_another_repository_in_the_environment(self):
        self.sh("git init -q victim")
        self.git["GIT_DIR"] = str(self.root / "victim" / ".git")
        self.assertEqual(self.apply(), (0, ""))
        self.assertFalse(any((self.root / "victim" / ".git" / "refs" / "heads").iterdir()))

    def test_a_run_that_was_cut_off_leaves_nobodys_work(self):
        self.apply()
        self.sh("touch tree/.git/busy; rm tree/.git/applied; echo half > tree/file; cd tree && git commit -qam half")
        self.assertEqual(self.apply(), (0, ""))
        self.assertIn("nine", self.file())
        self.assertFalse((self.root / "tree" / ".git" / "busy").exists())

    def test_a_failure_leaves_the_tree_for_the_next_run(self):
        self.patch(2).write_text(self.patch(2).read_text().replace("-9\n", "-8\n"))
        self.refuse("does not apply")
        self.assertFalse((self.root / "tree" / ".git" / "busy").exists())

    def test_an_object_is_missing(self):
        self.apply("base")
        shutil.rmtree(self.root / "tree")
        blob = subprocess.run("git -C cache/linux-of-one-file-* rev-parse base:file", shell=True, cwd=self.root, env=self.git,
                              capture_output=True, text=True, check=True).stdout.strip()
        objects, = (self.root / "cache").glob(f"*/.git/objects/{blob[:2]}/{blob[2:]}")
        objects.unlink()
        self.refuse("objects are missing from .*cache/linux-of-one-file-.*can be removed")
        self.assertFalse((self.root / "tree").exists())

    def test_already_applied(self):
        self.patch(2).write_text(self.patch(1).read_text())
        self.refuse(r"0002-.*\.patch does not apply")

    def test_truncated(self):
        text = self.patch(2).read_text()
        self.patch(2).write_text(text[:text.index("+nine")])
        self.refuse("0002-.*is truncated")

    def test_crlf(self):
        self.patch(1).write_bytes(self.patch(1).read_bytes().replace(b"\n", b"\r\n"))
        self.refuse("0001-.*CRLF")

    def test_a_patch_is_missing(self):
        self.patch(1).unlink()
        self.refuse("holds 1 patches, .* has 2")

    def test_empty_series(self):
        for patch in (self.root / "series").glob("*.patch"):
            patch.unlink()
        self.refuse("no patches in series")

    def test_missing_tarball(self):
        (self.root / "linux.tar").unlink()
        self.refuse("linux.tar is missing: install linux-of-one-file")

    def test_broken_tarball_leaves_no_cache(self):
        (self.root / "linux.tar").write_text("not a tarball")
        self.refuse("cannot unpack")
        self.assertEqual([path.name for path in (self.root / "cache").iterdir()], ["lock"])

    def test_uncommitted_work_is_not_lost(self):
        self.apply()
        (self.root / "tree" / "file").write_text("mine\n")
        self.patch(2).write_text(self.patch(2).read_text().replace("+nine", "+NINE"))
        self.refuse("uncommitted changes")
        self.assertEqual(self.file(), "mine\n")

    def test_commits_are_not_lost(self):
        self.apply()
        self.sh("cd tree && echo mine > file && git commit -qam mine")
        self.patch(2).write_text(self.patch(2).read_text().replace("+nine", "+NINE"))
        self.refuse("commits of yours")
        self.assertEqual(self.file(), "mine\n")


class Kernel(Fixture):
    """Somebody's git tree, which has two commits that the series does not know of."""

    def make_tarball(self):
        super().make_tarball()
        self.sh("mkdir -p linux/virt/kvm && echo kvm > linux/virt/kvm/kvm_main.c")

    def make_patches(self):
        super().make_patches()
        self.sh("git clone -q linux mine && cd mine && git checkout -q base && mkdir -p include/uapi/linux &&"
                "echo KVM_MEM_ABSENT_MAPPING_FAULT > include/uapi/linux/kvm.h && echo a > a && git add a include && git commit -qm a &&"
                "sed -i s/^15$/fifteen/ file && git commit -qam b && git tag -f base HEAD")
        self.git.update(KERNEL=str(self.root / "mine"))
        self.before = self.everything()

    def everything(self):
        """The state of the tree that must not change."""
        return subprocess.run("sha256sum .git/index; stat -c %i .git/index; git for-each-ref; git --no-optional-locks status --porcelain;"
                              "cat file; find .git -newer file -name '*.lock'; ls .git/worktrees",
                              shell=True, cwd=self.root / "mine", capture_output=True, text=True, env=self.git).stdout

    def tearDown(self):
        self.assertEqual(self.everything(), self.before)

    def tip(self, name):
        return subprocess.run(["git", "-C", str(self.root / "mine"), "rev-parse", name], capture_output=True, text=True, check=True).stdout.strip()

    def commit(self, name):
        return subprocess.run(["git", "-C", str(self.root / "tree"), "rev-parse", name], capture_output=True, text=True, check=True).stdout.strip()

    def test_on_top_of_its_head(self):
        self.assertEqual(self.apply(), (0, ""))
        for word in ("three", "nine", "fifteen"):
            self.assertIn(word, self.file())
        self.assertEqual(self.apply("base"), (0, ""))
        self.assertNotIn("three", self.file())

    def test_its_index_is_not_refreshed(self):
        self.sh("touch -d 2001-01-01 mine/a")
        self.assertEqual(self.apply(), (0, ""))

    def test_of_another_owner(self):
        if os.geteuid():
            self.skipTest("needs root")
        self.sh("chown -R nobody mine")
        self.assertEqual(self.apply(), (0, ""))
        self.assertIn("fifteen", self.file())
        self.sh("chown -R root mine")

    def test_what_it_was_when_make_began(self):
        self.git["KERNEL_COMMITS"] = self.tip("HEAD~1")
        self.assertEqual(self.apply(), (0, ""))
        self.assertNotIn("fifteen", self.file())

    def test_merged_already(self):
        self.sh("cd mine && git am -q ../series/0001-*")
        self.before = self.everything()
        status, err = self.apply()
        self.assertEqual((status, err), (0, ""))
        self.assertIn("nine", self.file())
        self.sh("cd mine && git am -q ../series/0002-*")
        self.before = self.everything()
        self.refuse("has the whole series already: .*SERIES=HEAD~2..HEAD")

    def test_not_a_tree_of_ours(self):
        self.apply()
        self.sh("git -c advice.detachedHead=false clone -q mine tree/inner")
        for path in ("tree", "tree/inner"):
            self.git["KERNEL"] = str(self.root / path)
            self.refuse("a tree that make builds in")
        self.assertTrue((self.root / "tree" / "inner" / "file").exists())

    def test_what_is_left_after_a_conflict(self):
        """git am goes on with the patches after it."""
        self.patch(1).write_text(self.patch(1).read_text().replace("-3\n", "-4\n"))
        self.refuse(r"0001-.*\.patch does not apply")
        self.sh("cd tree && sed -i s/^3$/THREE/ file && git add file && git am --continue -q")
        self.assertIn("nine", self.file())
        self.refuse("commits of yours")

    def test_its_own_commits(self):
        self.git["RANGE"] = "HEAD~2..HEAD~1"
        self.assertEqual(self.apply(), (0, ""))
        self.assertTrue((self.root / "tree" / "a").exists())
        self.assertNotIn("fifteen", self.file())
        self.assertNotIn("three", self.file())
        self.assertEqual(self.commit("origin/base..HEAD").count("\n"), 1)
        self.assertEqual(self.apply("base"), (0, ""))
        self.assertFalse((self.root / "tree" / "a").exists())

    def test_a_range_has_the_feature(self):
        self.sh("cd mine && git rm -q include/uapi/linux/kvm.h && git commit -qm without")
        self.before = self.everything()
        self.git["RANGE"] = "HEAD~1..HEAD"
        self.refuse("no KVM_MEM_ABSENT_MAPPING_FAULT at 'HEAD'")

    def test_bad_ranges(self):
        for given, words in (("HEAD~2...HEAD", "two dots"), ("HEAD~2..", "two dots"), ("HEAD~2..HEAD~1..HEAD", "two dots"),
                             ("nothing..HEAD", "has no commit 'nothing'"),
                             ("HEAD..HEAD", "holds no commits"), ("HEAD..HEAD~1", "is no ancestor of")):
            self.git["RANGE"] = given
            self.refuse(words)

    def test_a_conflict_is_left_for_a_person(self):
        text = self.patch(2).read_text()
        self.patch(2).write_text(text.replace("-9\n", "-8\n"))
        err = self.refuse(r"0002-.*\.patch does not apply to .*mine at .*git am waits in .*tree")
        self.assertIn("patch failed: file:", err)
        self.assertTrue((self.root / "tree" / ".git" / "rebase-apply").is_dir())
        self.refuse("git am still waits in .*tree")
        self.sh("cd tree && git am --abort")
        self.patch(2).write_text(text)
        self.assertEqual(self.apply(), (0, ""))

    def test_another_tree_in_its_place(self):
        self.assertEqual(self.apply(), (0, ""))
        self.git["KERNEL"] = str(self.root / "linux")
        self.sh("cd linux && git checkout -q base")
        self.assertEqual(self.apply(), (0, ""))
        self.assertNotIn("fifteen", self.file())

    def test_a_worktree_that_is_shallow(self):
        self.sh("git -c advice.detachedHead=false clone -q --depth 1 file://$PWD/mine shallow && cd shallow && git worktree add -q ../beside")
        self.git["KERNEL"] = str(self.root / "beside")
        self.assertEqual(self.apply(), (0, ""))
        self.assertIn("fifteen", self.file())

    def test_what_is_not_committed_is_not_built(self):
        self.sh("cd mine && sed -i s/^15$/XV/ file && sed -i s/fifteen/XV/ file")
        self.before = self.everything()
        status, err = self.apply()
        self.assertEqual(status, 0, err)
        self.assertIn("not committed", err)
        self.assertIn("fifteen", self.file())

    def test_a_bare_repository(self):
        self.sh("git clone -q --bare mine bare.git")
        self.git["KERNEL"] = str(self.root / "bare.git")
        self.assertEqual(self.apply(), (0, ""))
        self.assertIn("fifteen", self.file())

    def test_a_range_is_of_a_tree(self):
        del self.git["KERNEL"]
        self.git["RANGE"] = "a..b"
        self.assertEqual(self.apply(), (0, ""))
        self.assertIn("three", self.file())

    def test_not_a_tree(self):
        self.sh("mkdir -p cache mine/inner/virt/kvm; touch mine/inner/virt/kvm/kvm_main.c")
        self.sh("git init -q empty; cd empty; git commit -q --allow-empty -m a")
        self.addCleanup(self.sh, "rm -rf mine/inner")
        self.before = self.everything()
        for path, words in (("cache", "is not a git tree"), ("empty", "is not a tree of Linux"), ("mine/inner", "is within another git tree")):
            self.git["KERNEL"] = str(self.root / path)
            self.refuse(words)


class Fetch(unittest.TestCase):
    """A package that is not installed, with a stand-in for apt-get."""

    def fetch(self, script, package="linux-source-9.9"):
        with tempfile.TemporaryDirectory() as directory:
            root = pathlib.Path(directory)
            (root / "bin").mkdir()
            # As of a run that was killed
            (root / "cache" / "packages" / "new.123456").mkdir(parents=True)
            (root / "bin" / "apt-get").write_text('#!/bin/sh\ncase "$*" in *indextargets*) echo http://mirror/debian/; exit ;; esac\n' + script)
            (root / "bin" / "apt-get").chmod(0o755)
            done = subprocess.run([str(ROOT / "kernel-patches" / "fetch"), package, "sid", str(root / "cache")], capture_output=True,
                                  text=True, env={**os.environ, "PATH": f"{root}/bin:{os.environ['PATH']}"})
            left = [path.name for path in (root / "cache" / "packages").iterdir()]
            made = done.stdout and pathlib.Path(done.stdout.strip()).read_text()
        return done.returncode, done.stderr.splitlines()[-1], left, made

    def refuse(self, words, script):
        status, said, left, _ = self.fetch(script)
        self.assertEqual(status, 2)
        self.assertRegex(said, words)
        self.assertEqual(left, [])

    def test_a_package_that_has_gone(self):
        self.refuse("sid has no linux-source-9.9 any more.*this base has moved on.*README",
                    'case "$*" in *download*) echo "E: Unable to locate package linux-source-9.9"; exit 100 ;; esac\n')

    def test_no_network(self):
        self.refuse("no list of packages of sid: E: could not resolve", 'echo "E: could not resolve"; exit 100\n')

    def test_a_download_that_breaks_off(self):
        self.refuse("cannot download linux-source-9.9: E: connection", 'case "$*" in *download*) echo "E: connection"; exit 100 ;; esac\n')

    def test_what_is_fetched_is_kept(self):
        build = ('case "$*" in *download*)\nmkdir -p p/DEBIAN p/usr/src && echo source > p/usr/src/linux-source-9.9.tar.xz &&\n'
                 'printf "Package: linux-source-9.9\\nVersion: 9.9.1-1\\nArchitecture: all\\nMaintainer: a <a@localhost>\\nDescription: a\\n" > p/DEBIAN/control &&\n'
                 'dpkg-deb -b p linux-source-9.9_9.9.1-1_all.deb ;; esac\n')
        self.assertEqual(self.fetch(build)[0::2], (0, ["linux-source-9.9_9.9.1-1"]))
        self.assertEqual(self.fetch(build)[3], "source\n")


class Make(unittest.TestCase):
    """One line on stderr, a non-zero exit, and nothing built."""

    def refuse(self, words, *arguments, **environment):
        with tempfile.TemporaryDirectory() as out:
            done = subprocess.run(["make", "-C", str(ROOT), f"O={out}/o", *arguments],
                                  env={**{k: v for k, v in without_knobs().items()
                                          if not k.startswith(("MAKE", "MFLAGS"))}, **environment},
                                  capture_output=True, text=True)
            self.assertEqual(done.returncode, 2, done.stderr)
            said = [line for line in done.stderr.splitlines() if "Error 2" not in line]
            self.assertEqual(len(said), 1, done.stderr)
            self.assertRegex(said[0], words)
            self.assertFalse(os.path.exists(f"{out}/o/v6.12/patched/linux"))

    def test_unknown_arch(self):
        self.refuse("unknown ARCH=riscv; choose one of", "check", "ARCH=riscv")

    def test_unknown_series(self):
        self.refuse("unknown SERIES=mine; choose", "check", "SERIES=mine")

    def test_unknown_base(self):
        for base in ("v1.0", "../kernel-patches/v6.12", "./v6.12", "v6.12/", "%"):
            self.refuse("unknown BASE=.*; choose one of", "-n", "clean", f"BASE={base}")

    def test_unknown_config(self):
        self.refuse("unknown CONFIG=huge", "images", "CONFIG=huge")

    def test_somebodys_tree_is_looked_at_first(self):
        self.refuse("is not a tree of Linux", "check", f"KERNEL={ROOT}")
        self.refuse("has no commit 'nothing'|is not a tree of Linux", "check", f"KERNEL={ROOT}", "SERIES=nothing..HEAD")

    def test_a_range_without_a_tree(self):
        self.refuse("unknown SERIES=HEAD~2..HEAD; choose", "check", "SERIES=HEAD~2..HEAD")

    def test_somebodys_tree_is_not_for_our_own_series(self):
        self.refuse("KERNEL= is for check, bench", "check-mutants", f"KERNEL={ROOT}")

    def test_missing_cross_compiler(self):
        for arch in ("arm64", "x86"):
            self.refuse("not found: no-such-gcc.*run make deps", "-f", "guest-images/guest.mk", f"ARCH={arch}",
                        "OUT=nowhere", "SERIES=patched", "CROSS_COMPILE=no-such-", "cross=none-linux-gnu-")


if __name__ == "__main__":
    unittest.main()
