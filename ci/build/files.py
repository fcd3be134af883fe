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


def write_json(path: pathlib.Path, value: object) -> None:
    """By renaming: who is cut off here leaves what was there."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(value, indent=1) + "\n")
    new.replace(path)


def read_json(path: pathlib.Path) -> Any:
    return json.loads(path.read_text())
