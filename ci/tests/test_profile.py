# SPDX-License-Identifier: GPL-2.0
"""What make profile makes of what perf and the plugin say."""
import pathlib
import tempfile
import unittest
import xml.etree.ElementTree

from ci.facts import arch
from ci.measure import flame
from ci.measure import contention as profile
from ci.measure import symbols

# 200 faults of two vCPUs, with two timed parts
COUNTS = """Random seed: 0x1
{"mode": "fast_minor", "vcpus": 2, "pages": 80, "warm": 20, "ns": 5}
{"mode": "fast_minor", "vcpus": 2, "pages": 100, "warm": 0, "ns": 5}
212 kvm:kvm_userspace_exit 900 100.00
400 kvm:kvm_exit 900 100.00
""".splitlines()
STACKS = ["a;b;c 6", "a;b 2", "a;<d> 2"]


class Perf(unittest.TestCase):
    CONTENT = {"counts": COUNTS, "exits": ["x"], "locks": ["y"], "stacks": STACKS}

    def test_events_are_told_by_fault(self):
        lines = list(profile.lines_of("fast_minor", self.CONTENT, []))
        self.assertEqual(lines[:3], ["fast_minor, events of a fault:", "     1.00  kvm:kvm_userspace_exit", "     2.00  kvm:kvm_exit"])

    def test_no_record_no_fault(self):
        with self.assertRaisesRegex(arch.BadInput, "no record"):
            profile.faults_of(COUNTS[-2:])

    def test_exits_are_as_many_as_faults_or_none(self):
        self.assertEqual(profile.check_counts("fast_minor", COUNTS), "")
        self.assertIn("212, want 12 to 12", profile.check_counts("uffd_minor", COUNTS))
        self.assertIn("0, want 212", profile.check_counts("fast_minor", COUNTS[:3]))
        self.assertIn("213, want 212", profile.check_counts("fast_minor", [line.replace("212", "213") for line in COUNTS]))
        self.assertEqual(profile.check_counts("fast_minor_overlap", [line.replace("212", "412") for line in COUNTS]), "")

    def test_sections(self):
        found = profile.sections("x\n== counts\n1\n2\n== exits\n4\n== locks\n3\n== stacks\n5\n")
        self.assertEqual(found, {"counts": ["1", "2"], "exits": ["4"], "locks": ["3"], "stacks": ["5"]})
        with self.assertRaisesRegex(arch.BadInput, "nothing under exits, locks, stacks from"):
            profile.sections("== counts\n1\n== exits\n\n== locks\n")


class Samples(unittest.TestCase):
    def test_functions_by_share(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory, "map")
            path.write_text("ffff800000000100 T one\nffff800000000200 t two\nffff800000000300 d data\n")
            found = symbols.Symbols(path)
        samples = {("sample", 0xffff800000000104): 2, ("sample", 0xffff8000000001fc): 1, ("sample", 0x1000): 1,
                   ("spin", 0xffff800000000200): 6}
        self.assertEqual(profile.shares(samples, found), [(0.6, "a spinlock's code, from two"), (0.3, "one"), (0.1, "userspace, or the guest")])


class Flame(unittest.TestCase):
    def test_stacks_are_merged(self):
        root = flame.read_folded(STACKS)
        self.assertEqual((root.count, root.children["a"].count, root.children["a"].children["b"].count), (10, 10, 8))

    def test_a_line_that_was_cut_off_is_no_stack(self):
        for line in ("a;b;", "a;b", "7", ""):
            with self.assertRaisesRegex(arch.BadInput, "not a folded stack"):
                flame.read_folded([*STACKS, line])

    def test_a_picture_that_a_browser_can_read(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory, "f.svg")
            flame.draw(path, "t & t", flame.read_folded(STACKS))
            titles = [node.text for node in xml.etree.ElementTree.parse(path).iter() if node.tag.endswith("title")]
        self.assertIn("b: 8 samples, 80.0 %", titles)
        self.assertIn("<d>: 2 samples, 20.0 %", titles)
