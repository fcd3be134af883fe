# SPDX-License-Identifier: GPL-2.0
"""What is read, and how it can be broken: streams, consoles, case files, configurations."""
import json
import pathlib
import re
import tempfile
import unittest

from ci.facts import arch
from ci.measure import faults as bench
from ci.facts import cases
from ci.build import config_check
from ci.boot import ktap
from ci.publish import readme as reference
from ci.judge import splats as splat

HEAD = "KTAP version 1\n1..2\n# fact cpus=2\n"
FIRST = "# case first 30\n# some output\nok 1 first\n"
SECOND = "# case second 30\nok 2 second\n"
END = "# end\n"


class Streams(unittest.TestCase):
    def problems(self, text):
        return "\n".join(ktap.parse(text).problems)

    def test_whole(self):
        stream = ktap.parse(HEAD + FIRST + SECOND + END)
        self.assertEqual(stream.problems, [])
        self.assertEqual([r.status for r in stream.results], ["pass", "pass"])
        self.assertEqual(stream.results[0].output, "some output")
        self.assertEqual(stream.facts, {"cpus": "2"})

    def test_no_end(self):
        self.assertFalse(ktap.parse(HEAD + FIRST + SECOND).ended)

    def test_missing_result(self):
        self.assertIn("2 results planned, 1 seen", self.problems(HEAD + FIRST + END))

    def test_one_result_too_many(self):
        self.assertIn("2 results planned, 3 seen",
                      self.problems(HEAD + FIRST + SECOND + "# case x 1\nok 3 x\n" + END))

    def test_result_after_the_end(self):
        self.assertIn("after the end record", self.problems(HEAD + FIRST + END + SECOND))

    def test_no_plan(self):
        self.assertIn("want the plan", self.problems("KTAP version 1\nok 1 first\n"))

    def test_not_ktap(self):
        self.assertIn("want \"KTAP version 1\"", self.problems("Hello\n"))

    def test_out_of_order(self):
        self.assertIn("result 2 where 1 was due", self.problems(HEAD + SECOND + FIRST + END))

    def test_result_of_another_case(self):
        self.assertIn("which was not running", self.problems(HEAD + "# case first 3\nok 1 second\n"))

    def test_foreign_line(self):
        self.assertIn("not KTAP: Segmentation fault", self.problems(HEAD + "Segmentation fault\n"))

    def test_cut_in_a_line(self):
        self.assertIn("cut off", self.problems(HEAD + FIRST + "# case sec"))

    def test_a_case_cannot_end_the_stream(self):
        self.assertFalse(ktap.parse(HEAD + "# case first 3\n" + END).ended)

    def test_output_cannot_pass_for_ours(self):
        forged = "# case first 30\n# fact cpus=9\n# case second 5\n# # end\nok 1 first\n"
        stream = ktap.parse(HEAD + forged + SECOND + END)
        self.assertEqual(stream.problems, [])
        self.assertEqual(stream.facts, {"cpus": "2"})

    def test_failed_skip_is_a_failure(self):
        stream = ktap.parse(HEAD + "# case first 30\nnot ok 1 first # SKIP but failed\n")
        self.assertEqual(stream.results[0].status, "fail")


class Consoles(unittest.TestCase):
    """One line of each report that this kernel can make, both architectures."""
    SPLATS = (
        "[    1.0] WARNING: CPU: 0 PID: 34 at arch/x86/kvm/x86.c:12391 kvm_arch_commit+0x1/0x2",
        "[    1.0] kernel BUG at virt/kvm/kvm_main.c:2983!",
        "[    1.0] BUG: unable to handle page fault for address: ffffc90000001000",
        "[    1.0] BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "[    1.0] BUG: KASAN: slab-use-after-free in kvm_set_memslot+0x1/0x2",
        "[    1.0] Oops: general protection fault, probably for non-canonical address: 0000 [#1] SMP",
        "[    1.0] Call Trace:",
        "[    1.0] Call trace:",
        "[    1.0] Internal error: Oops: 0000000096000004 [#1] SMP",
        "[    1.0] Unable to handle kernel paging request at virtual address ffff800080000000",
        "[    1.0] Kernel panic - not syncing: Attempted to kill init!",
        "[    1.0] rcu: INFO: rcu_sched detected stalls on CPUs/tasks:",
        "[    1.0] rcu: INFO: rcu_sched self-detected stall on CPU",
        "[    1.0] watchdog: BUG: soft lockup - CPU#0 stuck for 26s!",
        "[    1.0] INFO: task memslot_fault_t:34 blocked for more than 120 seconds.",
        "[    1.0] WARNING: possible circular locking dependency detected",
        "[    1.0] UBSAN: array-index-out-of-bounds in mm/gup.c:1:2",
    )
    HARMLESS = (
        "[    0.0] Booting Linux on physical CPU 0x0",
        "[    0.1] kvm_amd: Nested Paging enabled",
        "[    0.1] debug: DEBUG mode, no bugs here",
        "init: case flag_combinations",
    )

    def test_every_splat_is_found(self):
        policy = splat.load_policy()
        for line in self.SPLATS:
            self.assertEqual(len(splat.scan(line, policy)), 1, line)

    def test_nothing_else_is(self):
        self.assertEqual(splat.scan("\n".join(self.HARMLESS), splat.load_policy()), [])

    def test_the_stack_of_an_ordered_failure_alone_is_excused(self):
        stack = "[ 1.0] CPU: 1 UID: 0\n[ 1.0] Call Trace:\n"
        policy = splat.load_policy()
        for size in "size 128", "size 4, align 0x1":     # of v6.12, of mainline
            ordered = f"[ 1.0] memslot_inject_: vmalloc error: {size}, vm_struct allocation failed, mode:0\n"
            self.assertEqual(splat.scan(ordered + stack, policy), [])
            self.assertEqual(len(splat.scan(ordered + stack + stack, policy)), 1)
            self.assertEqual(len(splat.scan(ordered + "[ 1.0] BUG: KASAN: bad\n" + stack, policy)), 1)
            self.assertEqual(len(splat.scan(ordered.replace("inject", "other") + stack, policy)), 1)

    def test_a_splat_names_its_case_and_line(self):
        text = "init: case one\ninit: case two\n[ 1.0] BUG: bad\n"
        self.assertEqual([(s.case, s.line) for s in splat.scan(text, splat.load_policy())], [("two", 3)])

    def test_an_empty_policy_is_an_error(self):
        with tempfile.NamedTemporaryFile("w") as policy:
            policy.write("allow BUG\n")
            policy.flush()
            self.assertRaisesRegex(arch.BadInput, "nothing is denied", splat.load_policy,
                                   pathlib.Path(policy.name))


class Files(unittest.TestCase):
    def write(self, text):
        file = tempfile.NamedTemporaryFile("w", suffix=".mk", delete=False)
        self.addCleanup(pathlib.Path(file.name).unlink)
        file.write(text)
        file.close()
        return pathlib.Path(file.name)

    def test_case_lines(self):
        for line, words in (("a all -", "want name"), ("A all - 1 x", "a name has only"),
                            ("a all maybe 1 x", "needs is"), ("a all - 0 x", "seconds is"),
                            ("a all - 1 x\na all - 1 y", "a second case")):
            self.assertRaisesRegex(arch.BadInput, words, cases.load, self.write(line + "\n"))

    def test_every_function_has_a_line_and_every_line_a_function(self):
        programs = (arch.ROOT / "selftests").glob("*_test.c")
        written = {(program.stem, line[5:-1]) for program in programs
                   for line in program.read_text().splitlines() if line.startswith("CASE(")}
        listed = {case.command[:2] for case in cases.load(cases.default_path("tests"))
                  if (arch.ROOT / "selftests" / f"{case.command[0]}.c").exists()}
        self.assertEqual(written, listed)

    def test_architectures(self):
        for path in (arch.ROOT / "guest-images").glob("*.mk"):
            if path.stem != "guest":
                self.assertTrue(arch.load(path.stem).modes)
        self.assertRaisesRegex(arch.BadInput, "neither a comment", arch.read_facts,
                               self.write("ifeq (a,b)\n"))

    def test_lost_config_lines(self):
        have = self.write("CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=2\n")
        want = self.write("CONFIG_A=y\nCONFIG_B=y\nCONFIG_N=64\n# CONFIG_A is not set\n# CONFIG_Z is not set\n")
        lost = list(config_check.lost(have, [want]))
        self.assertEqual([line.split(": ")[1].split(" ")[0] for line in lost],
                         ["CONFIG_A=n", "CONFIG_B=y", "CONFIG_N=64"])
        self.assertEqual(list(config_check.lost(have, [self.write("CONFIG_A=y\n# CONFIG_B is not set\n")])), [])


class Readme(unittest.TestCase):
    def test_its_tables_are_the_references(self):
        readme = (arch.ROOT / "README.md").read_text()
        for name, kind in reference.KINDS.items():
            if kind.picture:
                text = (arch.ROOT / "results" / kind.table).read_text()
                self.assertEqual(reference.in_readme(readme, text, name), readme)

    def test_what_it_links_to_is_there(self):
        readme = (arch.ROOT / "README.md").read_text()
        for name in re.findall(r"\]\(([^)#]+)\)", readme):
            self.assertTrue((arch.ROOT / name).exists(), name)

    def test_it_names_the_two_commands_that_ci_runs(self):
        commands = (arch.ROOT / ".ci" / "run").read_text()
        for command in ("make deps check", "make deps bench"):
            self.assertIn(f"    {command}", (arch.ROOT / "README.md").read_text())
            self.assertIn(f'"{command}"', commands)


class Numbers(unittest.TestCase):
    def test_price_is_the_slope(self):
        batches = [{"pages": 512, "ticks": 1000 + 512 * 7}, {"pages": 1536, "ticks": 1000 + 1536 * 7}]
        self.assertEqual(bench.price(batches * 3, 16), (7 * 16, 0))

    def test_instructions_per_tick(self):
        self.assertEqual(bench.instructions_per_tick([{"hz": 62500000}]), 16)
        self.assertEqual(bench.instructions_per_tick([]), 0)

    def test_a_clock_that_is_not_exact_is_not_reported(self):
        self.assertEqual(bench.check_calibration([{"calibration": 1000000, "ticks": 1000005}], 1), "")
        self.assertIn("not exact", bench.check_calibration([{"calibration": 1000000, "ticks": 1001005}], 1))
        self.assertIn("no calibration", bench.check_calibration([], 1))

    def test_order_within_a_pair_does_not_matter(self):
        small, large = {"pages": 1, "ticks": 10}, {"pages": 3, "ticks": 16}
        self.assertEqual(bench.price([small, large, large, small], 1), (3, 0))

    def test_batches_must_be_pairs(self):
        self.assertEqual(bench.check_batches([{"pages": p} for p in (1, 3, 3, 1) * 2]), "")
        for sizes in ((), (1, 3), (1, 1) * 4, (1, 3, 1), (1, 3) * 3 + (3, 3)):
            self.assertIn("want 4 pairs", bench.check_batches([{"pages": s} for s in sizes]))

    def test_a_planted_cost_must_be_found(self):
        for price, findings in ((1100, 0), (1111, 1), (100, 1), (0, 1)):
            rows = [bench.Row("fast", 100, 5, 0), bench.Row("fast_planted", price, 5, 1000)]
            self.assertEqual(len(list(bench.check_planted(rows))), findings, price)

    def test_table(self):
        rows = {"x86/npt": [bench.Row("uffd_minor_sharded", 200, 0, 0), bench.Row("fast_minor", 100, 1, 0)],
                "arm64/vhe": [bench.Row("fast_minor", 30, 2, 0)]}
        self.assertEqual(list(bench.table(rows))[1:], [
            "                             x86/npt range   peer arm64/vhe range   peer",
            "uffd_minor_sharded               200     0                -     -",
            "fast_minor                       100     1  2.00x        30     2"])



class Reference(unittest.TestCase):
    """Whose figures results/ may have."""

    def base(self, *metas):
        with tempfile.TemporaryDirectory() as directory:
            for number, meta in enumerate(metas):
                place = pathlib.Path(directory, str(number))
                place.mkdir()
                (place / "meta.json").write_text(json.dumps(meta))
            return reference.base_of(pathlib.Path(directory))

    def test_of_our_own_bases_alone(self):
        self.assertEqual(self.base({"base": "mainline"}, {"base": "mainline"}), "mainline")
        with self.assertRaisesRegex(reference.BadInput, "no base of"):
            self.base({"base": "v1.0"})
        with self.assertRaisesRegex(reference.BadInput, "somebody's tree"):
            self.base({"base": "mainline"}, {"base": "mainline", "kernel": "/linux"})

    def test_rows_of_bases_stand_side_by_side(self):
        text = ("instructions per fault\n" + f"{'':10}{'arm64/vhe':>12} range   peer{'x86/npt':>10} range\n" +
                f"{'mapped':10}{4218:>12}    15       {3173:>10}    17\n\nmore\n")
        self.assertEqual(reference.figures(text), {"mapped": {"arm64/vhe": "4218", "x86/npt": "3173"}})


if __name__ == "__main__":
    unittest.main()
