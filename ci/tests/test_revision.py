# SPDX-License-Identifier: GPL-2.0
"""A revision, from a series of patches to what is said of it; the statistics."""
import contextlib
import email
import io
import json
import mailbox
import math
import pathlib
import random
import statistics
import subprocess
import tempfile
import types
import unittest
import unittest.mock

from ci.facts import arch
from ci.facts import cases
from ci.boot import ktap
from ci.facts import matrix
from ci.revision import cost as perf
from ci.publish import report
from ci.revision import judge as revision
from ci.judge import results as run
from ci.revision import series
from ci.proof import spoiled as spoil
from ci.revision import patchcheck as static
from ci.revision import stats
from ci.build import cache as store
from ci.judge import verdict
from ci.revision import states as workshop
from ci.judge.verdict import Finding, Verdict

PATCH = """From 1234567890123456789012345678901234567890 Mon Sep 17 00:00:00 2001
From: A Person <a@example.org>
Date: Wed, 25 Nov 2026 14:26:21 +0000
Subject: [PATCH v3 {n}/2] KVM: x86: Do {n}

Because of {n}.

Signed-off-by: A Person <a@example.org>
---
 file | 2 +-
 1 file changed, 1 insertion(+), 1 deletion(-)

diff --git a/file b/file
index 1111111..2222222 100644
--- a/file
+++ b/file
@@ -{n} +{n} @@
-{n}
+{n}{n}
--{space}
2.39

"""


def patch_text(n, **more):
    return PATCH.format(n=n, space=" ", **more)


class Scratch(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name)


class Sources(Scratch):
    """The same series from a directory, a mailbox, and git."""

    def directory(self):
        (self.root / "in").mkdir()
        for n in (1, 2):
            (self.root / "in" / f"{n:04}-do-{n}.patch").write_text(patch_text(n))
        return self.root / "in"

    def check(self, found):
        self.assertEqual([p.subject for p in found.patches], ["KVM: x86: Do 1", "KVM: x86: Do 2"])
        self.assertEqual([p.number for p in found.patches], [1, 2])
        self.assertEqual(found.patches[0].files, ["file"])
        return [p.ident for p in found.patches]

    def test_directory_and_mailbox_are_the_same_patches(self):
        directory = self.directory()
        idents = self.check(series.load(str(directory), "v6.12", self.root / "a"))
        box = mailbox.mbox(str(self.root / "box"))
        for n in (2, 1):  # in no order, and with a reply between
            box.add(mailbox.mboxMessage(patch_text(n)))
            box.add(mailbox.mboxMessage(f"Subject: Re: [PATCH v3 {n}/2] KVM: x86: Do {n}\n\nNo.\n"))
        box.close()
        self.assertEqual(self.check(series.load(str(self.root / "box"), "v6.12", self.root / "b")), idents)

    def test_a_mail_in_base64(self):
        message = email.message_from_string(patch_text(1).replace("Because", "Weil's größer ist"))
        body = message.get_payload()
        message.set_payload(body, "utf-8")
        self.assertIn("base64", message["content-transfer-encoding"])
        box = mailbox.mbox(str(self.root / "box"))
        box.add(mailbox.mboxMessage(message))
        box.close()
        found = series.load(str(self.root / "box"), "v6.12", self.root / "a")
        self.assertIn("+11", found.patches[0].text)

    def test_patches_as_make_series_names_them(self):
        (self.root / "in").mkdir()
        for n in (1, 2):
            (self.root / "in" / f"v3-{n:04}-do-{n}.patch").write_text(patch_text(n))
        self.check(series.load(str(self.root / "in"), "v6.12", self.root / "a"))

    def test_what_is_no_patch(self):
        for text in ("diff --git a/a b/a\n", "Subject: [PATCH 1/1] a: b\n\nNothing.\n"):
            (self.root / "in").mkdir(exist_ok=True)
            (self.root / "in" / "0001-a.patch").write_text(text)
            with self.assertRaisesRegex(arch.BadInput, "no Subject|no diff"):
                series.load(str(self.root / "in"), "v6.12", self.root / "a")

    def test_two_mails_for_one_patch(self):
        box = mailbox.mbox(str(self.root / "box"))
        box.add(mailbox.mboxMessage(patch_text(1)))
        box.add(mailbox.mboxMessage(patch_text(1)))
        box.close()
        with self.assertRaisesRegex(arch.BadInput, "two mails are patch 1"):
            series.load(str(self.root / "box"), "v6.12", self.root / "a")

    def test_a_revision_of_this_repository(self):
        found = series.load("HEAD", "v6.12", self.root / "a")
        self.assertGreater(len(found.patches), 1)
        self.assertIn("KVM", found.cover.subject)

    def test_what_is_none_of_these(self):
        with self.assertRaisesRegex(arch.BadInput, "neither a directory, nor a mailbox, nor a revision"):
            series.load("no/such/thing", "v6.12", self.root / "a")
        (self.root / "empty").mkdir()
        with self.assertRaisesRegex(arch.BadInput, "no patches"):
            series.load(str(self.root / "empty"), "v6.12", self.root / "a")


class Kept(Scratch):
    """What the store gives back is what was put, or nothing."""

    def setUp(self):
        super().setUp()
        self.store = store.Store(self.root / "store")
        self.calls = 0

    def count(self):
        self.calls += 1
        return [["fail", "text"]]

    def test_once(self):
        for _ in range(2):
            self.assertEqual(self.store.once("kind", ["a", 1], self.count), [["fail", "text"]])
        self.store.once("kind", ["a", 2], self.count)
        self.assertEqual(self.calls, 2)

    def damage(self, function):
        self.store.once("kind", ["a"], self.count)
        path = next((self.root / "store" / "kind").iterdir())
        path.write_text(function(path.read_text()))
        self.store.once("kind", ["a"], self.count)
        self.assertEqual(self.calls, 2)

    def test_an_entry_that_was_cut(self):
        self.damage(lambda text: text[:-9])

    def test_an_entry_that_was_changed(self):
        self.damage(lambda text: text.replace("fail", "pass"))

    def test_an_entry_of_other_inputs(self):
        self.damage(lambda text: text.replace('["a"]', '["b"]'))

    def test_what_another_run_has_put_there_stays(self):
        (self.root / "in").mkdir()
        (self.root / "in" / "kernel").write_text("image")
        kept = self.store.keep_files("kernels", ["a"], self.root / "in")
        inode = (kept / "kernel").stat().st_ino
        self.store.keep_files("kernels", ["a"], self.root / "in")
        self.assertEqual((kept / "kernel").stat().st_ino, inode)

    def test_files_that_were_damaged(self):
        (self.root / "in").mkdir()
        (self.root / "in" / "kernel").write_text("image")
        kept = self.store.keep_files("kernels", ["a"], self.root / "in")
        self.assertEqual(self.store.files("kernels", ["a"]), kept)
        (kept / "kernel").write_text("imago")
        self.assertIsNone(self.store.files("kernels", ["a"]))
        self.assertIsNone(self.store.files("kernels", ["b"]))


class Static(Scratch):
    def patch(self, text):
        path = self.root / "0001-a.patch"
        path.write_text(text)
        return series.Patch(1, path)

    def test_sign_off(self):
        self.assertEqual(static.signed_off("", self.patch(patch_text(1))), [])
        other = patch_text(1).replace("Signed-off-by: A", "Signed-off-by: B")
        self.assertEqual(static.signed_off("", self.patch(other))[0][0], "fail")
        self.assertEqual(static.signed_off("", self.patch(patch_text(1).replace("Signed-off", "Acked")))[0][0], "fail")

    def test_recipients(self):
        for said, wrong in (((0, "A <a@example.org>\n"), ""), ((0, "linux-block@vger.kernel.org\nkvmarm@lists.linux.dev\n"), "lists alone"),
                            ((1, "no file"), "nobody")):
            with unittest.mock.patch("ci.revision.patchcheck.output_of", return_value=said):
                found = static.recipients("", self.patch(patch_text(1)))
            self.assertIn(wrong, " ".join(text for _, text in found))
            self.assertEqual(bool(wrong), bool(found))

    def test_subject(self):
        self.assertEqual(static.subject_form("", self.patch(patch_text(1))), [])
        self.assertTrue(static.subject_form("", self.patch(patch_text(1).replace("KVM: x86: Do", "Do"))))

    def test_warnings_are_compared_without_lines(self):
        before = static.warnings_in("virt/kvm/kvm_main.c:10:5: warning: unused variable 'a' [-Wunused]\n", ["virt/kvm/kvm_main.c"])
        after = static.warnings_in("arch/x86/kvm/../../../virt/kvm/kvm_main.c:12:5: warning: unused variable 'a' [-Wunused]\n"
                                   "arch/x86/kvm/../../../virt/kvm/kvm_main.c:13:5: warning: unused variable 'b' [-Wunused]\n"
                                   "include/linux/other.h:1:1: warning: none of ours\n", ["virt/kvm/kvm_main.c"])
        self.assertEqual(static.grown(before, after), ["virt/kvm/kvm_main.c: warning: unused variable 'b' [-Wunused]"])
        self.assertEqual(static.grown(after, after), [])
        self.assertEqual(len(static.grown(before, before * 2)), 1, "a second one of the same words is new")

    def test_what_is_compiled_where(self):
        files = ["arch/x86/kvm/x86.c", "arch/arm64/kvm/mmu.c", "virt/kvm/kvm_main.c", "tools/a.c", "kernel/irq/manage.c", "arch/powerpc/kvm/b.c"]
        self.assertEqual(static.compiled_here(files, "x86"), ["arch/x86/kvm/x86.c", "virt/kvm/kvm_main.c", "kernel/irq/manage.c"])
        self.assertEqual(static.directories(files[2:3] + files[4:5], "x86"), ["arch/x86/kvm/", "kernel/irq/"])
        self.assertEqual(static.foreign(files, ["x86", "arm64"]), ["arch/powerpc/kvm/b.c"])


def boot(results, findings=()):
    """Of {case: status}; what failed says so."""
    found = [ktap.Result(name, status, "reason" if status != "pass" else "", n, "") for n, (name, status) in enumerate(results.items())]
    return types.SimpleNamespace(outcome=types.SimpleNamespace(stream=types.SimpleNamespace(results=found)), findings=list(findings))


FAILS = Finding(Verdict.FAIL, "a", "exit=254", "tests.ktap:1")
MISSING = Finding(Verdict.SKIP, "a", f"must not skip here: SKIP {verdict.SERIES_IS_MISSING}", "tests.ktap:1")


class Bisection(unittest.TestCase):
    """What may be different after a patch, and what may not."""

    def words(self, before, now):
        return [word.name for word, _, _, _ in revision.broken(before, now)]

    def test_a_case_that_passed_fails(self):
        self.assertEqual(self.words(boot({"a": "pass"}), boot({"a": "fail"}, [FAILS])), ["FAIL"])

    def test_a_case_that_failed_in_the_same_way_is_none_of_the_patch(self):
        self.assertEqual(self.words(boot({"a": "fail"}), boot({"a": "fail"}, [FAILS])), [])

    def test_a_case_that_the_series_does_not_reach_yet(self):
        self.assertEqual(self.words(boot({"a": "skip"}), boot({"a": "skip"}, [MISSING])), [])

    def test_a_case_that_passed_skips(self):
        self.assertEqual(self.words(boot({"a": "pass"}), boot({"a": "skip"}, [MISSING])), ["SKIP"])

    def test_a_case_that_skipped_fails(self):
        self.assertEqual(self.words(boot({"a": "skip"}), boot({"a": "fail"}, [FAILS])), ["FAIL"])

    def test_a_splat_is_always_the_patch(self):
        splat = Finding(Verdict.SPLAT, "a", "WARNING", "console.log:1")
        self.assertEqual(self.words(boot({"a": "fail"}), boot({"a": "fail"}, [splat])), ["SPLAT"])


class SecondBoot(unittest.TestCase):
    def test_what_only_one_boot_shows(self):
        self.assertEqual(revision.with_second_boot(Verdict.FAIL, True, True)[0], "fail")
        self.assertEqual(revision.with_second_boot(Verdict.FAIL, False, True)[0], "left")
        self.assertEqual(revision.with_second_boot(Verdict.FAIL, False, False)[0], "fail", "ours may not")
        self.assertEqual(revision.with_second_boot(Verdict.SPLAT, False, True)[0], "splat")


class Cells(Scratch):
    def test_the_matrix_can_be_read(self):
        there, left = matrix.chosen(matrix.load(), arch.names())
        self.assertTrue(there and all(cell.when == "always" for cell in there))
        self.assertTrue(all(cell.why or cell.when == "slow" for cell in left))
        lacks = cases.lacking()
        self.assertEqual([cell.name for cell in there if f"{cell.arch}/{cell.mode}" in lacks], [])
        there += [cell for cell in left if f"{cell.arch}/{cell.mode}" in lacks]
        for name in arch.names():
            self.assertEqual({cell.mode for cell in there if cell.arch == name}, {mode.name for mode in arch.load(name).modes},
                             "each mode of an architecture needs a line in ci/matrix")

    def test_what_is_refused(self):
        for line in ("x86 npt -", "x86 npt - sometimes", "x86 npt - never", "x86 npt - always because", "x86 no - always", "x86 npt no always"):
            with self.assertRaises(arch.BadInput, msg=line):
                matrix.parse(line, "here")


class Engines(unittest.TestCase):
    """What other people's machines loop over is ci/matrix."""

    def test_gitlab_has_as_many_jobs_as_cells(self):
        with unittest.mock.patch.dict("os.environ", {"BASE": "", "MATRIX": ""}):
            cells, _ = matrix.chosen(matrix.load(), arch.names())
        text = (arch.ROOT / ".gitlab-ci.yml").read_text()
        self.assertIn(f"\n  parallel: {len(cells)}\n", text)


class Spoiled(Scratch):
    def test_what_is_run(self):
        text = "Bad.\n\nPatch: 7\nArch: x86\n{}Finds: {} | fail | a\n\ndiff --git a/a b/a\n"
        for of, tool, wanted in (("", "boot", ["PATCHES=7-7"]), ("", "cost", ["PATCHES=7-7", "AGAINST"]), ("Of: the whole\n", "cost", ["AGAINST"])):
            (self.root / "a.patch").write_text(text.format(of, tool))
            with unittest.mock.patch("ci.build.progress.call", return_value=1) as call, self.assertRaisesRegex(arch.BadInput, "not come to an end"):
                spoil.judge(spoil.load(self.root / "a.patch"), self.root / "place")
            said = [word.partition("=")[0] if word.startswith("AGAINST") else word for word in call.call_args[0][0][4:]]
            self.assertEqual(said, wanted)

    def test_the_tree_has_the_whole_series_afterwards(self):
        def git(*words):
            return subprocess.run(["git", "-C", self.root, "-c", "user.name=a", "-c", "user.email=a@localhost", *words], check=True,
                                  capture_output=True, text=True).stdout
        git("init", "-q")
        for number in (1, 2):
            git("commit", "-q", "--allow-empty", "-m", str(number))
        with self.assertRaises(KeyboardInterrupt), spoil.kept(self.root):
            git("checkout", "-q", "--detach", "HEAD~")
            raise KeyboardInterrupt
        self.assertEqual(git("log", "-1", "--format=%s"), "2\n")

    def test_all_of_ours_can_be_read(self):
        for base in (arch.ROOT / "kernel-patches" / "spoiled").iterdir():
            self.assertTrue(spoil.load_all(base.name))

    def test_what_is_refused(self):
        path = self.root / "a.patch"
        for text in ("Bad.\n\nPatch: 7\nArch: x86\nFinds: boot | fail | a\n",  # neither a diff nor a move
                     "Bad.\n\nPatch: 7\nArch: x86\nFinds: boot\n\ndiff --git a/a b/a\n",
                     "Bad.\n\nPatch: 7\nArch: x86\nOf: all\nFinds: boot | fail | a\n\ndiff --git a/a b/a\n"):
            path.write_text(text)
            with self.assertRaises(arch.BadInput, msg=text):
                spoil.load(path)


class Metrics(Scratch):
    def test_those_that_are_declared_exist(self):
        perf.check_declared(*perf.load_metrics())
        perf.load_accepted()

    def test_bad_lines(self):
        path = self.root / "metrics"
        for line in ("rate fast_minor 4 0", "rate fast_minor 4 0.0", "rate fast_minor 0 2", "rate fast_minor 4 ..", "exact"):
            path.write_text(line + "\n")
            with self.assertRaisesRegex(arch.BadInput, "want .*exact MODE", msg=line):
                perf.load_metrics(path)
        twice = [perf.Rate("fast_minor", 4, 2), perf.Rate("fast_minor", 4, 5)]
        for exact, rates in (([], []), (["mapped"], twice)):
            with self.assertRaisesRegex(arch.BadInput, "each rate once"):
                perf.check_declared(exact, rates)

    def test_a_mode_that_does_not_exist(self):
        with self.assertRaisesRegex(arch.BadInput, "no_such_mode"):
            perf.check_declared(["no_such_mode"], [])

    def rows(self, series, again, against):
        key = ("fast_minor", "median")
        return perf.exact_rows({"series": ({key: series}, {key: again}), "against": ({key: against}, {key: against})})

    def test_one_instruction_is_a_change(self):
        changes = perf.exact_changes("x86", self.rows(7188, 7188, 7187), {})
        self.assertEqual([status for status, _ in changes], ["fail"])
        self.assertIn("more than in", changes[0][1])
        self.assertEqual(perf.exact_changes("x86", self.rows(7187, 7187, 7187), {}), [])
        self.assertEqual(perf.exact_changes("x86", self.rows(7186, 7186, 7187), {})[0][0], "pass")

    def test_what_does_not_repeat_is_not_judged(self):
        rows = self.rows(7188, 7189, 7187)
        self.assertFalse(rows[0]["exact"])
        self.assertEqual(perf.exact_changes("x86", rows, {}), [])

    def test_many_changes_are_one_finding(self):
        found = perf.as_one([("fail", "a"), ("known", "b"), ("fail", "c"), ("pass", "d")])
        self.assertEqual(found, [("fail", "a; 1 more in the table"), ("known", "b"), ("pass", "d")])
        self.assertEqual(perf.as_one([]), [])

    def test_what_never_happened_before(self):
        changes = perf.exact_changes("x86", self.rows(1, 1, 0), {})
        self.assertEqual([status for status, _ in changes], ["fail"])

    def test_so_many_rates_that_none_can_be_found(self):
        exact, rates = perf.load_metrics()
        with self.assertRaisesRegex(arch.BadInput, "declare fewer"):
            perf.check_declared(exact, rates * 4)

    def test_an_accepted_change_is_that_one_alone(self):
        path = self.root / "accepted"
        path.write_text("x86 fast_minor median 7187 7188 | the test of the flag\n")
        accepted = perf.load_accepted(path)
        self.assertEqual(perf.exact_changes("x86", self.rows(7188, 7188, 7187), accepted)[0][0], "known")
        for other in (self.rows(7189, 7189, 7187), self.rows(7188, 7188, 7186)):
            self.assertEqual(perf.exact_changes("x86", other, accepted)[0][0], "fail")
        self.assertEqual(perf.exact_changes("arm64", self.rows(7188, 7188, 7187), accepted)[0][0], "fail")


class Statistics(unittest.TestCase):
    def test_published_answers(self):
        # Darwin's 15 pairs of maize, Fisher, The Design of Experiments (1935), section 21: 1726 of the
        # 2^15 ways have a sum as large, on both sides.
        darwin = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
        self.assertAlmostEqual(stats.sign_flip_p(darwin), 1726 / 32768, places=9)
        # Student's t of the same: 2.148, two-sided p = 0.0497 (Fisher, section 17)
        mean, low, high = stats.interval(darwin)
        self.assertAlmostEqual(mean, 20.933, places=3)
        self.assertTrue(0 < low < 0.1 and 41.7 < high < 41.9, (low, high))
        # Holm (1979), by hand: 0.01 * 3, 0.02 * 2, 0.04 * 1, never smaller than the one before
        self.assertEqual([round(p, 6) for p in stats.holm([0.01, 0.04, 0.02])], [0.03, 0.04, 0.04])

    def test_five_blocks_can_never_say_so(self):
        self.assertEqual(stats.sign_flip_p([1, 2, 3, 4, 5]), 2 / 32)
        self.assertEqual(stats.sign_flip_p([1, 2, 3, 4, 5, 6, 7, 8]), 2 / 256)

    def test_a_drift_within_a_block_is_no_difference(self):
        self.assertEqual(stats.differences([(100, 101, 102, 103)]), [0])

    def test_a_difference_of_nothing(self):
        self.assertEqual(stats.sign_flip_p([0.0] * 8), 1.0)

    @staticmethod
    def blocks(generator, effect):
        """Boots that differ by 0.8 % and a drift: what make scale shows at 4 vCPUs."""
        drift = generator.gauss(0, 0.01)
        return [tuple(100 * (1 + drift * n + generator.gauss(0, 0.008)) * (effect if letter == "B" else 1) for letter in stats.ORDER)
                for n in range(stats.BLOCKS)]

    # statsmodels collects garbage at each call, nine tenths of the time here
    @unittest.mock.patch("gc.collect", lambda: 0)
    def trials(self, effect, count=200):
        generator = random.Random(7)
        # As declared: several metrics at once, under Holm
        return [stats.compare({"changed": self.blocks(generator, effect), "not": self.blocks(generator, 1)}, {"changed": 2, "not": 5})[0]
                for _ in range(count)]

    def test_false_alarms(self):
        found = self.trials(1)
        alarms = sum(o.verdict in ("slower", "faster") for o in found)
        self.assertLessEqual(alarms, 10)
        # and not thanks to the minimum alone
        self.assertLessEqual(sum(o.p < stats.ALPHA for o in found), 10)
        self.assertLessEqual(sum(not o.usable for o in found), 20)

    def test_what_could_not_have_been_seen_is_not_no_change(self):
        generator = random.Random(3)
        blocks = [tuple(100 * (1 + generator.gauss(0, 0.1)) for _ in stats.ORDER) for _ in range(stats.BLOCKS)]
        outcome, = stats.compare({"x": blocks}, {"x": 5})
        self.assertEqual(outcome.verdict, "inconclusive")
        row = {"name": "x", "verdict": "inconclusive", "change": 1, "low": 0, "high": 2, "p": 0.4}
        self.assertEqual(perf.rate_changes([row])[0][0], "left")
        self.assertIn("1 of 1 rates inconclusive", report.headline(found([], rates={"x86": {"rows": [row]}})))

    def outcome(self, **values):
        return stats.Outcome(**{"name": "x", "blocks": 8, "change": -1, "low": -1.5, "high": -0.5, "p": 0.01, "control_p": 1, "smallest": 3,
                                "least": 2} | values)

    def test_the_interval_says_what_is_ruled_out(self):
        self.assertEqual(self.outcome().verdict, "within threshold")
        self.assertEqual(self.outcome(low=-2.5).verdict, "inconclusive")
        self.assertEqual(self.outcome(p=0.4, low=-0.5, high=2.1).verdict, "inconclusive")
        self.assertEqual(self.outcome(change=-2, low=-2.5).verdict, "slower")
        self.assertEqual(self.outcome(change=2, p=0.2, low=1, high=3).verdict, "inconclusive")

    def test_what_would_have_been_seen_is_no_less_than_matters(self):
        self.assertGreater(stats.detectable([0.0001 * n for n in range(8)], 1, 5), math.log1p(0.05))
        # and is seen: planted, in as many trials as promised, within what 200 of them can tell
        smallest = statistics.median(o.smallest for o in self.trials(1))
        seen = [o.verdict for o in self.trials(1 - smallest / 100)].count("slower")
        self.assertTrue(172 <= seen <= 190, (smallest, seen))

    def test_three_per_cent_are_found(self):
        found = [o.verdict for o in self.trials(0.97)]
        self.assertGreaterEqual(found.count("slower"), 180)
        self.assertEqual(found.count("faster"), 0)

    def test_a_control_that_flags_makes_all_of_it_unusable(self):
        blocks = [(100, 97, 97, 90 + n / 10) for n in range(8)]
        outcome, = stats.compare({"x": blocks}, {"x": 2})
        self.assertEqual(outcome.verdict, "not usable")
        changes = perf.rate_changes([{"name": "x", "verdict": "not usable", "control_p": 0.01}, {"name": "y", "verdict": "slower", "control_p": 1}])
        self.assertEqual([status for status, _ in changes], ["harness"])
        self.assertIn("measures them again", changes[0][1])


class Shop(Scratch):
    """Blocks are kept in a real store, of boots that never were."""

    def setUp(self):
        super().setUp()
        self.shop = workshop.Workshop.__new__(workshop.Workshop)
        self.shop.store, self.shop.measured_by, self.shop.against = store.Store(self.root), set(), object()
        self.shop.state = lambda arch, where: types.SimpleNamespace(images=(where,))
        self.shop.inputs_of_blocks = lambda arch, images, vcpus, modes: [vcpus, modes]


class Attempts(Shop):
    """Rates whose A/A control flags are measured once more, and the report says so."""

    DISTURBED = [(100, 97, 97, 90 + n / 10) for n in range(8)]
    QUIET = [(100 + n % 2, 100, 100, 101 - n % 2) for n in range(8)]

    def judge(self, blocks):
        """(status, text, lines of the report) of rates that are so, if they are measured now."""
        def boot(arch, where, vcpus, modes, number):
            self.measured += 1
            return iter_blocks[number]
        iter_blocks = {n + 1: iter(block) for n, block in enumerate(blocks)}
        self.measured, judge = 0, revision.Judge([], self.shop, types.SimpleNamespace(patches=[1]))
        judge.rate_boot = boot
        with contextlib.redirect_stdout(io.StringIO()), unittest.mock.patch("ci.revision.cost.rate_of", lambda values, rate: next(values)):
            rates = judge.judge_rates(types.SimpleNamespace(name="x86"), [perf.Rate("fast_minor", 4, 2)])
        (check,) = judge.checks
        return check.status, check.summary, "\n".join(report.rate_table({"rates": {"x86": rates}, "repository": "other"}))

    def test_the_second_measurement_says_that_it_is_one(self):
        status, text, lines = self.judge(self.DISTURBED)
        self.assertEqual((status, self.measured), ("harness", 32))
        self.assertIn("measures them again", text)
        self.assertNotIn("given up", lines)
        for measured, blocks in ((32, self.QUIET), (0, self.DISTURBED)):
            status, _, lines = self.judge(blocks)
            self.assertEqual((status, self.measured), ("pass", measured))
            self.assertIn("measurement 1 was given up", lines)
            self.assertIn("measured by", lines)

    def test_two_measurements_are_all_there_are(self):
        self.judge(self.DISTURBED)
        for measured in (32, 0, 0):
            status, text, lines = self.judge(self.DISTURBED)
            self.assertEqual((status, self.measured), ("harness", measured))
            self.assertIn("2 times in a row", text)
            self.assertIn("not usable", lines)


class Judged(Shop):
    """From what boots give to what is said of the series: nothing in between is replaced."""

    RATES = [perf.Rate("fast_minor", 4, 2), perf.Rate("uffd_minor_sharded", 4, 5)]

    def boot_of(self, arch, where, vcpus, modes, number):
        """Boots drift, within a block as well; both parts of one differ."""
        self.now += 1
        rates = {mode: 100 * (1 + 0.001 * self.now + self.random.gauss(0, 0.004)) * self.speed[mode].get(where, 1) for mode in modes}
        points = [types.SimpleNamespace(mode=mode, rate=rate * part) for mode, rate in rates.items() for part in (0.99, 1.01)]
        return types.SimpleNamespace(points=points, findings=list(self.wrong.get(where, [])), directory="d")

    def rates(self, rates=None, wrong=(), **speed):
        self.now, self.random, self.speed, self.wrong = 0, random.Random(5), speed, dict(wrong)
        judge = revision.Judge([], self.shop, types.SimpleNamespace(patches=[1]))
        judge.rate_boot = self.boot_of
        with contextlib.redirect_stdout(io.StringIO()), unittest.mock.patch("ci.measure.scaling.points_of", lambda boot: boot.points):
            judge.judge_rates(types.SimpleNamespace(name="x86"), rates or self.RATES)
        return [(c.status, c.summary.split(",")[0], c.summary.split(": ")[-1]) for c in judge.checks]

    def test_which_is_slower(self):
        self.assertEqual(self.rates(fast_minor={1: 0.96}, uffd_minor_sharded={}),
                         [("fail", "fast_minor", "slower"), ("pass", "uffd_minor_sharded", "within threshold")])

    def test_which_is_faster(self):
        self.assertEqual(self.rates(fast_minor={"against": 0.96}, uffd_minor_sharded={1: 0.9}),
                         [("pass", "fast_minor", "faster"), ("fail", "uffd_minor_sharded", "slower")])

    def test_another_order_of_what_is_declared(self):
        first = self.rates(fast_minor={1: 0.96}, uffd_minor_sharded={})
        self.assertEqual(self.rates(self.RATES[::-1], fast_minor={}, uffd_minor_sharded={}), first[::-1])
        self.assertEqual(self.now, 0)

    def test_what_a_kernel_does_wrong_meanwhile_is_its_verdict(self):
        splat = verdict.Finding(verdict.Verdict.SPLAT, "", "WARNING", "console.log:1")
        with self.assertRaises(perf.NotMeasured) as raised:
            self.rates(fast_minor={}, uffd_minor_sharded={}, wrong={1: [splat]})
        self.assertEqual(raised.exception.status, "splat")

    def test_a_boot_has_both_parts(self):
        boot = types.SimpleNamespace(points=[types.SimpleNamespace(mode="fast_minor", rate=1)], findings=[], directory="d")
        with unittest.mock.patch("ci.measure.scaling.points_of", lambda boot: boot.points), self.assertRaisesRegex(perf.NotMeasured, "1 rates"):
            perf.rate_of(boot, self.RATES[0])
        boot.points.append(types.SimpleNamespace(mode="fast_minor", rate=3))
        with unittest.mock.patch("ci.measure.scaling.points_of", lambda boot: boot.points):
            self.assertEqual(perf.rate_of(boot, self.RATES[0]), 1.5)  # as many pages in each

    def exact(self, **counts):
        """counts: those of two boots of each."""
        judge = revision.Judge([], self.shop, types.SimpleNamespace(patches=[]))
        self.shop.moved = lambda: []
        self.shop.measure = lambda arch, where, kind, modes, again: {("fast_minor", "median"): counts[where][again]}
        with unittest.mock.patch("ci.revision.cost.values_of", lambda boot: boot), contextlib.redirect_stdout(io.StringIO()):
            rows = judge.judge_exact(types.SimpleNamespace(name="x86"), ["fast_minor"], {name: name for name in counts})
        return rows, [(c.status, c.summary) for c in judge.checks if c.summary]

    def test_exact_counts(self):
        _, (against, base) = self.exact(series=(7188, 7188), base=(7180, 7180), against=(7187, 7187))
        self.assertEqual(against[0], "fail")
        self.assertRegex(against[1], "7187 -> 7188 .* the revision before")
        self.assertRegex(base[1], "7180 -> 7188 .* the base")
        self.assertEqual(self.exact(series=(7187, 7187), base=(7187, 7187))[1], [])

    def test_exact_counts_that_do_not_repeat(self):
        for name in ("series", "base", "against"):
            counts = {"series": (7188, 7188), "base": (7188, 7188), "against": (7188, 7188)} | {name: (7188, 7190)}
            rows, (found,) = self.exact(**counts)
            self.assertEqual((found[0], rows[0]["spread"]), ("harness", 2))
            self.assertIn("spread 0 in 0 of 1 rows; not judged, as they differ: fast_minor median by 2",
                          " ".join(" ".join(report.exact_table({"exact": {"x86": rows}})).split()))


def found(checks, **more):
    patches = [{"number": n, "subject": f"KVM: x86: Do {n}", "patch_id": f"{n}" * 40, "message_id": "", "since": "", "judged": True} for n in (1, 2)]
    return {"version": 1, "verdict": "fail", "run": "20260101-000000-revision", "time": "2026-01-01T00:00:00Z", "repository": "abc",
            "base": {"package": "linux-source", "tested": "1"}, "of": "here", "against": "", "subject": "[PATCH v3 0/2] KVM: Do both",
            "cover_message_id": "<1@example.org>", "patchset_hash": "0" * 64, "revision": 3, "at_the_end": "long_*", "archs": ["arm64", "x86"], "patches": patches, "dropped": [],
            "checks": [vars(revision.Check(*check)) for check in checks], "command": "make revision", **more}


class Reports(Scratch):
    CHECKS = [(1, "", "checkpatch", "pass"), (1, "x86", "boot", "pass", "60 cases pass"), (1, "arm64", "boot", "same", "the same images"),
              (2, "x86", "build", "fail", "error: no", "results/x/log", "make revision PATCHES=2 ARCH=x86"),
              (2, "arm64", "boot", "splat", "WARNING: at mmu.c " + "x" * 90, "", "make revision PATCHES=2 ARCH=arm64"),
              (0, "x86", "x86-ept", "left", "because")]

    def test_the_mail_has_the_gravest_first_and_fits(self):
        text = report.mail(found(self.CHECKS))
        lines = text.splitlines()
        self.assertEqual(lines[1], "In-Reply-To: <1@example.org>")
        first = lines.index("") + 1
        self.assertEqual(lines[first], "verdict: splat: 2 findings, in patch 2")
        self.assertTrue(lines[first + 1].startswith("  SPLAT patch 2/2 arm64 boot: WARNING"))
        self.assertIn("  FAIL patch 2/2 x86 build: error: no", lines)
        self.assertIn("  make revision PATCHES=2 ARCH=x86", lines)
        self.assertEqual([line for line in report.check_width(text) if "xxx" not in line], [])

    def test_a_log_is_quoted_up_to_the_line(self):
        (self.root / "log").write_text("".join(f"line {n}\n" for n in range(1, 20)))
        self.assertEqual(run.excerpt(f"{self.root}/log:9")[-1], "line 9")
        self.assertEqual(len(run.excerpt(f"{self.root}/log")), run.EXCERPT)
        self.assertEqual(run.excerpt("no/such/file:3"), [])

    def test_all_good(self):
        text = report.mail({**found(self.CHECKS[:3]), "verdict": "pass"})
        self.assertIn("verdict: pass, on arm64 and x86: 2 patches", text)

    def test_patches_that_were_not_judged_are_not_praised(self):
        some = {**found(self.CHECKS[:3]), "verdict": "pass"}
        some["patches"][1]["judged"] = False
        self.assertIn("patch 1 alone", report.headline(some))

    def test_a_page_escapes_what_it_quotes(self):
        checks = [*self.CHECKS, (2, "x86", "W=1", "fail", "<script>alert(1)</script>")]
        text = report.page(found(checks), {"a picture": "<svg/>"})
        self.assertNotIn("<script>", text)
        self.assertIn("&lt;script&gt;", text)

    def test_what_b4_is_told(self):
        answers = report.b4(found(self.CHECKS))
        self.assertEqual({a["tool"]: a["status"] for a in answers["2" * 40]},
                         {"kvm-fast-only:build-x86": "fail", "kvm-fast-only:boot-arm64": "fail"})
        self.assertEqual(answers["1" * 40][0]["status"], "pass")

    def test_kcidb_has_a_test_for_each_check_of_an_architecture(self):
        told = report.kcidb(found(self.CHECKS))
        self.assertEqual([(b["architecture"], b["status"]) for b in told["builds"]], [("x86", "FAIL")])
        self.assertEqual(len(told["tests"]), 3, "only of what was built")
        self.assertTrue(all(t["build_id"] in {b["id"] for b in told["builds"]} for t in told["tests"]))

    def test_what_kcidb_would_refuse(self):
        told = report.without_none(report.kcidb(found(self.CHECKS)))
        report.validate(told, "kcidb")
        for table, broken in (("tests", {"status": "same"}), ("tests", {"path": "patch 1"}), ("tests", {"log": "x"}), ("builds", {"id": "no colon"}),
                              ("builds", {"architecture": "x86-64"}), ("checkouts", {"message_id": "<1@example.org>"}), ("checkouts", {"valid": None})):
            spoiled = {**told, table: [{**told[table][0], **broken}, *told[table][1:]]}
            with self.assertRaises(arch.BadInput, msg=str(broken)):
                report.validate(spoiled, "kcidb")

    def test_what_kcidb_would_refuse_is_not_written(self):
        with unittest.mock.patch("ci.publish.report.kcidb", return_value={"checkouts": []}), self.assertRaisesRegex(arch.BadInput, "kcidb.json"):
            report.faces(self.root, found(self.CHECKS))
        self.assertFalse((self.root / "kcidb.json").exists())

    def test_a_message_id_that_kcidb_would_refuse_costs_no_verdict(self):
        for cover, told in (("<1@example.org>", "1@example.org"), ("<1@x> (added by postmaster@relay)", "1@x"), ("<nohost>", None), ("", None)):
            report.faces(self.root, {**found(self.CHECKS), "cover_message_id": cover})
            written = json.loads((self.root / "kcidb.json").read_text())["checkouts"][0]
            self.assertEqual(written.get("message_id"), told)

    def test_what_the_schema_refuses(self):
        report.validate(found(self.CHECKS))
        for broken in ({"version": 2}, {"verdict": "green"}, {"checks": []}, {"patches": []}):
            with self.assertRaises(arch.BadInput, msg=str(broken)):
                report.validate({**found(self.CHECKS), **broken})

    def test_the_exit_status_is_the_verdict(self):
        with unittest.mock.patch("builtins.print"):
            self.assertEqual(report.write(self.root, found(self.CHECKS)), Verdict.FAIL)
        self.assertEqual(json.loads((self.root / "revision.json").read_text())["version"], 1)


class Cellwise(unittest.TestCase):
    """What is said of a cell of the matrix."""

    def judge(self, state):
        machine = arch.load("x86")
        shop = types.SimpleNamespace(against=None, state=lambda *_, **__: state)
        judge = revision.Judge([machine], shop, types.SimpleNamespace(patches=(1, 2)))
        with unittest.mock.patch("builtins.print"):
            judge.judge_cell(matrix.Cell("x86", "npt", "", "always", ""), machine)
        return judge.checks

    def test_one_that_does_not_build_is_a_finding(self):
        checks = self.judge(workshop.State(problem="the kernel does not build"))
        self.assertEqual([(c.status, c.bad) for c in checks], [("fail", True)])

    def test_a_case_that_must_run_and_skips_is_a_finding(self):
        found = boot({"a": "skip"}, [MISSING])
        found = run.Boot(None, pathlib.Path("d"), found.outcome, found.findings)
        checks = self.judge(workshop.State(boot=found))
        self.assertEqual([(c.status, c.bad) for c in checks], [("skip", True)])


class Chosen(unittest.TestCase):
    def test_patches(self):
        for text, wanted in (("", [1, 2, 3, 4]), ("2", [2]), ("1,3-4", [1, 3, 4])):
            with unittest.mock.patch.dict("os.environ", PATCHES=text):
                self.assertEqual(revision.chosen(4), wanted)
        for text in ("5", "x", "3-1"):
            with unittest.mock.patch.dict("os.environ", PATCHES=text), self.assertRaises(arch.BadInput, msg=text):
                revision.chosen(4)

    def test_what_did_not_apply_is_named(self):
        problem = workshop.NotApplied("OF", "error: patch failed\napply: build/of/0007-KVM-x86.patch does not apply to linux (reason above)\n")
        self.assertEqual(problem.number, 7)

    def test_knobs_come_back(self):
        with unittest.mock.patch.dict("os.environ", MODE="vhe"):
            with workshop.knobs(MODE="npt"):
                self.assertEqual(run.knob("MODE"), "npt")
            self.assertEqual(run.knob("MODE"), "vhe")


if __name__ == "__main__":
    unittest.main()
