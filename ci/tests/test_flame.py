# SPDX-License-Identifier: GPL-2.0
"""Flame graphs: ci/measure/flame.py."""
import pathlib
import xml.etree.ElementTree

import pytest

from ci.facts.text import BadInput
from ci.measure import flame

STACKS = ["a;b;c 6", "a;b 2", "a;<d> 2"]


def test_stacks_are_merged() -> None:
    root = flame.read_folded(STACKS)
    a = root.children["a"]
    assert (root.count, a.count, a.children["b"].count) == (10, 10, 8)


@pytest.mark.parametrize("line", ("a;b;", "a;b", "7", ""))
def test_a_line_that_was_cut_off_is_no_stack(line: str) -> None:
    with pytest.raises(BadInput, match="not a folded stack"):
        flame.read_folded([*STACKS, line])


def test_a_picture_that_a_browser_can_read(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "f.svg"
    flame.draw(path, "t & t", flame.read_folded(STACKS))
    root = xml.etree.ElementTree.parse(path).getroot()
    titles = [node.text for node in root.iter() if node.tag.endswith("title")]
    assert "b: 8 samples, 80.0 %" in titles
    assert "<d>: 2 samples, 20.0 %" in titles
