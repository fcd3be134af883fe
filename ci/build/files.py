# SPDX-License-Identifier: GPL-2.0
"""Files: what is in them, and JSON that is whole or not there."""
import hashlib
import json
import pathlib
import subprocess
from typing import Any


def sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def first_line(*argv: str | pathlib.Path) -> str:
    """Of what a command prints: a program's version."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.splitlines()[0] if done.stdout else ""


def as_text(value: Any, indent: str = "") -> str:
    """JSON in which what has no parts of its own is one line: a row of a table stays one."""
    parts = value.values() if isinstance(value, dict) else value
    if not isinstance(value, (dict, list, tuple)) or not any(
            isinstance(part, (dict, list, tuple)) for part in parts):
        return json.dumps(value)
    names = value if isinstance(value, dict) else [None] * len(value)
    heads = [f"{json.dumps(name)}: " if name is not None else "" for name in names]
    inner = ",\n".join(f"{indent} {head}{as_text(part, indent + ' ')}"
                       for head, part in zip(heads, parts))
    inner = f"\n{inner}\n{indent}"
    return "{" + inner + "}" if isinstance(value, dict) else f"[{inner}]"


def write_json(path: pathlib.Path, value: object) -> None:
    """By renaming: who is cut off here leaves what was there."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(as_text(value) + "\n")
    new.replace(path)


def read_json(path: pathlib.Path) -> Any:
    return json.loads(path.read_text())


def render(template: pathlib.Path, **values: object) -> str:
    """A text from a Jinja template; a name that it does not get is an error."""
    import jinja2  # a third of the time that a command takes to start
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True, keep_trailing_newline=True)
    return environment.from_string(template.read_text()).render(values)
