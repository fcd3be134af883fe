# SPDX-License-Identifier: GPL-2.0
"""What proves the cases: the table of requirements, mutants, coverage, the base."""
import collections
import itertools
import pathlib
import re
import tempfile
import types
import unittest
import unittest.mock

from ci.facts import arch
from ci.judge import upstream as baseline
from ci.facts import cases
from ci.proof import coverage
from ci.boot import ktap
from ci.proof import mutants
from ci.judge import results as run
from ci.judge import verdict
from ci.judge.verdict import Finding, Verdict

ROW = re.compile(r"\| ([0-9R, ]*)\| [^|]+ \| ([a-z0-9_, ]+) \|")


class Table(unittest.TestCase):
    """selftests/README.md says for each requirement which cases test it."""

    def setUp(self):
        text = (arch.ROOT / "selftests" / "README.md").read_text()
        rows = [ROW.match(line) for line in text.splitlines()]
        self.rows = [(match[1].strip(), match[2]) for match in rows if match]
        self.cases = cases.load(cases.default_path("tests"))

    def named(self):
        return {case for _, names in self.rows for case in names.split(", ") if case != "none"}

    def test_every_requirement_and_race_has_a_row(self):
        items = [item for cell, _ in self.rows for item in cell.split(", ") if item]
        self.assertEqual(sorted(items), sorted([str(n) for n in range(1, 84)] + [f"R{n}" for n in range(1, 14)]))

    def test_every_case_that_it_names_exists(self):
        self.assertEqual(self.named() - {case.name for case in self.cases}, set())

    def test_every_case_of_ours_is_in_it(self):
        ours = {case.name for case in self.cases if case.command[0].startswith("memslot_") and
                (arch.ROOT / "selftests" / f"{case.command[0]}.c").exists()}
        missing = ours - self.named()
        self.assertEqual(missing, set(), "these need a row in selftests/README.md: | | what | case | |")


class Sometimes(unittest.TestCase):
    """A known failure that comes and goes is none when it stays away, and needs no failure of the base."""

    def judge(self, why, status):
        case = cases.Case("a", ("all",), "-", 10, ("a",))
        line = cases.KnownFailure("a", "arm64", "tcg", re.compile("too early"), why)
        result = ktap.Result("a", status, "exit=254" if status == "fail" else "", 1, "too early" if status == "fail" else "")
        finding = verdict.judge_result(case, result, "patched", [line])
        return finding and finding.verdict

    def test_it_may_pass_and_fail(self):
        self.assertEqual(self.judge("sometimes: it is so", "fail"), Verdict.KNOWN)
        self.assertIsNone(self.judge("sometimes: it is so", "pass"))

    def test_others_have_to_fail(self):
        self.assertEqual(self.judge("it is so", "pass"), Verdict.FAIL)

    def test_the_base_need_not_fail(self):
        line = cases.KnownFailure("a", "arm64", "tcg", re.compile("too early"), "sometimes: it is so")
        request = types.SimpleNamespace(arch=types.SimpleNamespace(name="arm64"), accel="tcg")
        self.assertTrue(baseline.sometimes(types.SimpleNamespace(known=[line]), "a", request))
        self.assertFalse(baseline.sometimes(types.SimpleNamespace(known=[line]), "b", request))


class Mutants(unittest.TestCase):
    def write(self, text):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        path = pathlib.Path(directory.name, "a.patch")
        path.write_text(text)
        return path

    def test_all_of_ours_can_be_read(self):
        for base in (arch.ROOT / "kernel-patches" / "mutants").iterdir():
            for mutant in mutants.load_all(base.name):
                self.assertTrue(set(mutant.archs) <= set(arch.names()), mutant.name)

    def test_a_header(self):
        mutant = mutants.load(self.write("It is wrong.\n\nArch: x86\nMode: shadow\nKilled-by: absent_read\n"
                                         "Killed-by: absent_write\n\ndiff --git a/a b/a\n"))
        self.assertEqual((mutant.why, mutant.archs, mutant.mode, mutant.killers),
                         ("It is wrong.", ("x86",), "shadow", ("absent_read", "absent_write")))

    def test_what_cannot_be_tried(self):
        for text in ("It is wrong.\n\nArch: x86\n\ndiff --git a/a b/a\n",
                     "It is wrong.\n\nArch: x86\nKilled-by: absent_read\n",
                     "It is wrong.\n\nArch: x86\nKilled-by: no_such_case\n\ndiff --git a/a b/a\n"):
            with self.assertRaises(arch.BadInput):
                mutants.load(self.write(text))

    def judge(self, findings, heard=("a", "b"), how="exited", plan=2):
        stream = types.SimpleNamespace(results=[types.SimpleNamespace(name=name) for name in heard], plan=plan)
        boot = types.SimpleNamespace(findings=findings, outcome=types.SimpleNamespace(stream=stream, how=how))
        return mutants.judge(boot, ["a", "b"])

    def test_both_notice(self):
        found = [Finding(Verdict.FAIL, "a", "", "tests.ktap:1"), Finding(Verdict.TIMEOUT, "b", "", "tests.ktap:2")]
        self.assertEqual(self.judge(found), (["a", "b:timeout"], [], []))

    def test_one_survives(self):
        self.assertEqual(self.judge([Finding(Verdict.FAIL, "a", "", "tests.ktap:1")]), (["a"], ["b"], []))

    def test_a_known_failure_is_no_kill(self):
        self.assertEqual(self.judge([Finding(Verdict.KNOWN, "a", "", "tests.ktap:1")])[1], ["a", "b"])

    def test_the_machine_is_lost(self):
        found = [Finding(Verdict.LOST, "a", "Kernel panic", "console.log:9")]
        self.assertEqual(self.judge(found, heard=()), (["a:lost"], [], []))

    def test_trouble_of_the_host_is_no_kill(self):
        found = [Finding(Verdict.LOST, "a", "QEMU was killed by SIGKILL", "qemu.log")]
        self.assertTrue(self.judge(found, heard=(), how="killed")[2])
        found = [Finding(Verdict.LOST, "", "the guest ended without its end record", "console.log")]
        self.assertTrue(self.judge(found, heard=(), plan=0)[2])
        found = [Finding(Verdict.LOST, "a", "Kernel panic", "console.log:9"), Finding(Verdict.HARNESS, "", run.DISK_IS_FULL, "")]
        self.assertTrue(self.judge(found, heard=())[2])

    def test_the_committed_tables_are_of_these_mutants(self):
        with_mutants = [b for b in run.bases() if (arch.ROOT / "kernel-patches/mutants" / b).exists()]
        for base, name in itertools.product(with_mutants, arch.names()):
            path = run.results_of(base) / f"mutants-{name}.txt"
            rows = dict(re.findall(rf"^(\S+) +{name}/\S+ +(\w+)", line)[0] for line in path.read_text().splitlines() if f" {name}/" in line)
            wanted = {m.name: "killed" for m in mutants.load_all(base) if name in m.archs}
            self.assertEqual(rows, wanted, f"{path} is of other mutants: make check-mutants ARCH={name} BASE={base}")

    def test_a_broken_trial_is_no_kill(self):
        found = [Finding(Verdict.HARNESS, "", "asked for release=1", "tests.ktap")]
        self.assertEqual(self.judge(found)[2], ["asked for release=1"])


class Coverage(unittest.TestCase):
    LINES = {"arch/x86/kvm/a.c": {3: "\tone();", 4: "\ttwo();", 5: "/* three */"}, "arch/other/b.c": {1: "x();"}}

    def report(self, counts, excuses=()):
        text, code, open_ = coverage.report("x86", self.LINES, {"arch/x86/kvm/a.c": collections.Counter(counts)}, excuses)
        return text, code, open_

    def test_all_executed(self):
        text, code, open_ = self.report({3: 7, 4: 1})
        self.assertEqual((code, open_), (2, 0))
        self.assertIn("        7 arch/x86/kvm/a.c:3: one();", text)
        self.assertIn("not built here: arch/other/b.c", text)

    def test_not_executed(self):
        counts = collections.Counter({3: 7})
        counts[4] = 0
        text, _, open_ = self.report(counts)
        self.assertEqual(open_, 1)
        self.assertIn("##### arch/x86/kvm/a.c:4: two();", text)

    def test_excused(self):
        counts = {3: 7, 4: 0}
        text, _, open_ = self.report(counts, [["all", "arch/x86/kvm/a.c", "two();", "no such hardware"]])
        self.assertEqual(open_, 0)
        self.assertIn("[no such hardware]", text)

    def test_excuse_is_for_one_line(self):
        excuse = [["x86", "arch/x86/kvm/a.c", "two();", "why"]]
        lines = {"arch/x86/kvm/a.c": {4: "\ttwo();", 9: "\t\ttwo();"}}
        counts = {"arch/x86/kvm/a.c": collections.Counter({4: 0, 9: 0})}
        self.assertEqual([coverage.report("x86", lines, counts, excuse * n)[2] for n in (1, 2)], [1, 0])

    def test_excused_for_nothing(self):
        excuses = [["x86", "arch/x86/kvm/a.c", "two();", "why"], ["arm64", "arch/x86/kvm/a.c", "two();", "why"]]
        text, _, open_ = self.report({3: 7, 4: 1}, excuses)
        self.assertEqual(open_, 1)
        self.assertIn("though excused: arch/x86/kvm/a.c: two();", text)

    def test_stream(self):
        with tempfile.TemporaryDirectory() as directory:
            raw = pathlib.Path(directory, "raw")
            raw.write_bytes(b"/a.gcda\n00000003\nx\ny" + b"/b.gcda\n00000000\n" + b"end\n00000002\n")
            self.assertEqual(list(coverage.records(raw)), [("/a.gcda", b"x\ny"), ("/b.gcda", b"")])
            for cut in (b"/a.gcda\n00000009\nx\ny", b"/a.gcda\n00000003\nx\ny", b"", b"/a.gc",
                        b"/a.gcda\n00000003\nx\ny" + b"end\n00000002\n"):
                raw.write_bytes(cut)
                with self.assertRaises(arch.BadInput):
                    list(coverage.records(raw))


class Base(unittest.TestCase):
    def result(self, status, output="", reason=""):
        return ktap.Result("a", status, reason, 1, output)

    def word(self, ours, base):
        return baseline.compare(ours, baseline.Result(base.status, baseline.signature(base)))

    def test_words(self):
        failure = "==== Test Assertion Failure ====\n  a.c:1: x == y\n  pid=7 tid=7 errno=9\n  0x2 != 0x1"
        self.assertEqual(self.word(self.result("pass"), self.result("pass")), "")
        self.assertEqual(self.word(self.result("fail", failure), self.result("pass")), "new")
        self.assertEqual(self.word(self.result("pass"), self.result("fail", failure)), "fixed")
        other_process = failure.replace("pid=7 tid=7", "pid=8 tid=9")
        self.assertEqual(self.word(self.result("fail", failure), self.result("fail", other_process)), "same")
        self.assertEqual(self.word(self.result("fail", failure), self.result("fail", failure.replace("x == y", "x"))),
                         "different")
        self.assertEqual(self.word(self.result("timeout", failure), self.result("fail", failure)), "different")
        # The same assertion, in another of the test's parts
        first, second = f"Test: one\n{failure}", f"Test: one\nTest: two\n{failure}"
        self.assertEqual(self.word(self.result("fail", second), self.result("fail", second)), "same")
        self.assertEqual(self.word(self.result("fail", first), self.result("fail", second)), "different")

    def test_only_a_failure_of_the_test_is_excused(self):
        found = [Finding(Verdict.FAIL, "a", "exit=254", "tests.ktap:9"), Finding(Verdict.SPLAT, "a", "BUG", "console.log:3"),
                 Finding(Verdict.SKIP, "a", "must not skip", "tests.ktap:9"), Finding(Verdict.FAIL, "b", "", "tests.ktap:11")]
        self.assertEqual([f.verdict for f in baseline.excuse(found, "a")],
                         [Verdict.KNOWN, Verdict.SPLAT, Verdict.SKIP, Verdict.FAIL])

    def test_what_the_base_passes_is_no_known_failure(self):
        found = [Finding(Verdict.KNOWN, "a", "QEMU", "tests.ktap:9"), Finding(Verdict.KNOWN, "b", "", "tests.ktap:11")]
        self.assertEqual([f.verdict for f in baseline.accuse(found, "a", "new")], [Verdict.FAIL, Verdict.KNOWN])

    def test_only_a_pass_is_kept(self):
        with tempfile.TemporaryDirectory() as directory:
            paths = {name: pathlib.Path(directory, "store", name) for name in "abc"}
            baseline.keep({"a": baseline.Result("pass", ""), "b": baseline.Result("timeout", "y"),
                           "c": baseline.Result("fail", "x")}, paths)
            self.assertEqual([path.exists() for path in paths.values()], [True, False, False])


class Config(unittest.TestCase):
    def machine(self, console, facts, **knobs):
        request = types.SimpleNamespace(release="r", cpus=2, arch=types.SimpleNamespace(page_size=4096),
                                        mode=types.SimpleNamespace(name="m", proof="is m"),
                                        config=arch.Config(proof="checked"), environment=("ops=7",))
        stream = types.SimpleNamespace(results=[], ended=True,
                                       facts={"release": "r", "cpus": "2", "page_size": "4096", "vm": "held", **facts})
        return [f.verdict for f in (*verdict.judge_machine(request, stream, console),
                                    *verdict.judge_console(request, stream, console))]

    def test_knobs_of_cases_and_the_checkers_are_read_back(self):
        self.assertEqual(self.machine("is m checked init: end", {"ops": "7"}), [])
        self.assertEqual(self.machine("is m checked init: end", {}), [Verdict.HARNESS])
        self.assertEqual(self.machine("is m init: end", {"ops": "7"}), [Verdict.HARNESS])
        self.assertEqual(self.machine("checked init: end", {"ops": "7"}), [Verdict.HARNESS])

    def test_facts(self):
        self.assertEqual(arch.load_config("debug").scale, 4)
        self.assertEqual(arch.load_config(""), arch.Config())
        # A configuration that needs no facts has none.
        self.assertEqual(arch.load_config("nothing-special"), arch.Config("nothing-special"))

    def test_cases_that_need_debug(self):
        path = cases.default_path("tests")
        names = {config: {c.name for c in cases.select(path, "x86", "npt", (), config)} for config in ("", "debug")}
        self.assertEqual(names["debug"] - names[""], {"inject_run", "inject_slot"})

    def test_a_console_proves_one_mode(self):
        say = "[    0.1] kvm [1]: {}\n".format
        limit, vgic, other = say("IPA Size Limit: 52 bits"), say("vgic interrupt IRQ9"), "[    0.1] Trying to unpack rootfs\n"
        vhe, nvhe = say("VHE mode initialized successfully"), say("Hyp nVHE mode initialized successfully")
        for text, mode in ((limit + vgic + vhe, "vhe"), (limit + other + vgic + nvhe, "nvhe"), (limit + vhe, "nogic"),
                           (limit + other + other + vhe, "nogic"), (limit + nvhe, None), (limit + say("GICv3: no") + vhe, None)):
            found = [m.name for m in arch.load("arm64").modes if re.search(m.proof, text)]
            self.assertEqual(found, [mode] if mode else [], text)

    def test_a_machine_that_lacks_something_has_the_cases_that_name_it(self):
        found = cases.select(cases.default_path("tests"), "arm64", "nogic")
        self.assertIn("timer_migrates", [c.name for c in found])
        self.assertEqual([c.name for c in found if "arm64/nogic" not in c.archs], [])
