# SPDX-License-Identifier: GPL-2.0
"""A shell on the console of the guest that make check boots; "exit" ends the machine."""
import dataclasses
import os

from ci.boot import qemu
from ci.boot import request as request_
from ci.build import images
from ci.config import Config


def shell(config: Config) -> int:
    arch = config.archs[0]
    config = dataclasses.replace(config, arch=(arch.name,))
    request_.plan(config, "tests", default_mode=True)
    images.build(config)
    initramfs = images.extra_initramfs(config, arch, "shell")
    request = dataclasses.replace(request_.requests(config, "tests", default_mode=True)[0],
                                  kind="shell", cases=(), initramfs=initramfs)
    argv = [*qemu.machine(request, initramfs.parent), "-serial", "mon:stdio"]
    print("ctrl-a x ends QEMU; the test programs are in /bin", flush=True)
    os.execvp(argv[0], argv)
