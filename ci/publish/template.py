# SPDX-License-Identifier: GPL-2.0
"""The texts that leave this repository: templates/, and the filters that they have."""
import functools
import re
import textwrap
from typing import Any

import jinja2

from ci.facts.text import ROOT
from ci.revision import cost

WIDTH = 72


def fill(text: str, first: str = "", indent: str = "") -> str:
    """A block of a template as a paragraph; commands and paths are not broken."""
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=indent,
                         break_long_words=False, break_on_hyphens=False) + "\n"


def number(value: Any, form: str = "") -> str:
    """In full, or as @form says; "-" for what was not measured."""
    if not isinstance(value, (int, float)):
        return "-"
    return form % value if form else cost.text_of(value)


@functools.cache
def environment() -> jinja2.Environment:
    found = jinja2.Environment(loader=jinja2.FileSystemLoader(ROOT / "ci/publish/templates"),
                               autoescape=jinja2.select_autoescape(["html.j2"]), trim_blocks=True,
                               lstrip_blocks=True, keep_trailing_newline=True)
    found.filters.update(fill=fill, number=number, usable=cost.usable, control_p=cost.control_p)
    return found


def render(name: str, **values: Any) -> str:
    text = environment().get_template(f"{name}.j2").render(values)
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
