# SPDX-License-Identifier: GPL-2.0
"""A shell on the console of the guest that make check boots; "exit" ends the machine.

usage: shell.py ARCH    (what make shell calls; knobs: see run.py)
"""
import os
import sys

from ci.boot import qemu as guest
from ci.judge import results as run


def shell(archs):
    request = next(run.requests(archs[:1], "tests", default_mode=True))
    argv = guest.shell_command(request, request.initramfs.with_name("initramfs-shell.cpio"))
    print("ctrl-a x ends QEMU; the test programs are in /bin", flush=True)
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    sys.exit(run.main(shell, sys.argv[1:]))
