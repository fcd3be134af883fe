# SPDX-License-Identifier: GPL-2.0
"""git, in a tree that is not the one that a hook may have been called for."""
import os
import subprocess

from ci.facts.arch import BadInput


def git(tree, *argv):
    """What it prints; BadInput if it fails."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    done = subprocess.run(["git", "-C", str(tree), *argv], capture_output=True, text=True, errors="replace", check=False, env=environment)
    if done.returncode:
        raise BadInput(f"git {argv[0]} in {tree}: {done.stderr.strip()}")
    return done.stdout.strip()
