# SPDX-License-Identifier: GPL-2.0
"""What has been found out, kept by the content of all that it depends on.

An entry is named by the hash of its inputs, and says them again, with a hash over itself:
one that was cut off, or is damaged, is no entry.
"""
import hashlib
import json
import pathlib
import shutil
import tempfile


def digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class Store:
    def __init__(self, directory):
        self.directory = pathlib.Path(directory)

    def path(self, kind, inputs):
        return self.directory / kind / digest(inputs)[:24]

    def get(self, kind, inputs):
        """What was put there, or None."""
        try:
            entry = json.loads((self.path(kind, inputs)).read_text())
            if entry["inputs"] == inputs and entry["sha256"] == digest(entry["value"]):
                return entry["value"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def put(self, kind, inputs, value):
        path = self.path(kind, inputs)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = pathlib.Path(tempfile.mktemp(prefix=f"{path.name}.new.", dir=path.parent))
        new.write_text(json.dumps({"inputs": inputs, "sha256": digest(value), "value": value}, sort_keys=True))
        new.replace(path)

    def once(self, kind, inputs, function):
        """The value of function(), which is called if it is not known yet.  None is not kept."""
        inputs = json.loads(json.dumps(inputs))  # as they come back
        value = self.get(kind, inputs)
        if value is None:
            value = function()
            if value is not None:
                self.put(kind, inputs, value)
        return value

    def files(self, kind, inputs):
        """The directory that keep_files() put there, or None."""
        path = self.path(kind, inputs)
        sums = self.get(f"{kind}-sums", inputs)
        if sums is None or sums != file_sums(path):
            return None
        return path

    def keep_files(self, kind, inputs, directory):
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


def file_sums(directory):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.glob("*")) if path.is_file()}
