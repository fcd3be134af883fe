# SPDX-License-Identifier: GPL-2.0
"""Results that are kept by the content of all that they depend on.

An entry is named by the hash of its inputs.  It repeats them, with a hash over its value: one
that was cut off, or is damaged, is no entry.
"""
import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

from ci.build.files import digest, sha256


class Cache:
    def __init__(self, directory: pathlib.Path | str):
        self.directory = pathlib.Path(directory)

    def path(self, kind: str, inputs: object) -> pathlib.Path:
        return self.directory / kind / digest(inputs)[:24]

    def get(self, kind: str, inputs: object) -> Any:
        """What was put there, or None."""
        try:
            entry = json.loads(self.path(kind, inputs).read_text())
            if entry["inputs"] == inputs and entry["sha256"] == digest(entry["value"]):
                return entry["value"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def put(self, kind: str, inputs: object, value: object) -> None:
        path = self.path(kind, inputs)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = pathlib.Path(tempfile.mktemp(prefix=f"{path.name}.new.", dir=path.parent))
        entry = {"inputs": inputs, "sha256": digest(value), "value": value}
        new.write_text(json.dumps(entry, sort_keys=True))
        new.replace(path)

    def once(self, kind: str, inputs: object, function: Callable[[], Any]) -> Any:
        """The value of function(), which is called if it is not known yet.  None is not kept."""
        inputs = json.loads(json.dumps(inputs))  # as they come back
        value = self.get(kind, inputs)
        if value is None:
            value = function()
            if value is not None:
                self.put(kind, inputs, value)
        return value

    def files(self, kind: str, inputs: object) -> pathlib.Path | None:
        """The directory that keep_files() put there, or None."""
        path = self.path(kind, inputs)
        sums = self.get(f"{kind}-sums", inputs)
        return path if sums is not None and sums == file_sums(path) else None

    def keep_files(self, kind: str, inputs: object, directory: pathlib.Path) -> pathlib.Path:
        path = self.path(kind, inputs)
        if self.files(kind, inputs):  # another run was faster, and may be using it
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        new = pathlib.Path(tempfile.mkdtemp(prefix=f"{path.name}.new.", dir=path.parent))
        shutil.copytree(directory, new, dirs_exist_ok=True)
        shutil.rmtree(path, ignore_errors=True)
        new.rename(path)
        self.put(f"{kind}-sums", inputs, file_sums(path))
        return path


def file_sums(directory: pathlib.Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in sorted(directory.glob("*")) if path.is_file()}
