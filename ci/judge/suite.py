# SPDX-License-Identifier: GPL-2.0
"""Run the cases on each architecture, in each of its modes."""
import dataclasses

from ci.boot import request as request_
from ci.build import images
from ci.config import Config
from ci.facts.text import BadInput
from ci.judge import upstream
from ci.judge.results import Run

# Of make fuzz, for each architecture
FUZZ_OPS, FUZZ_SECONDS = 1000000, 7200


def check(config: Config) -> int:
    """Bad knobs are refused before anything is built."""
    request_.show_plan(request_.plan(config, "tests"))
    if not config.images:
        images.build(config)
    run = Run(config, "check")
    try:
        with images.booting(config):
            for request in request_.requests(config, "tests"):
                run.boot(request)
        if config.patched and not config.cases and not config.config:
            upstream.compare_run(run)
    finally:
        status = run.summary()
    return status


def fuzz(config: Config) -> int:
    """A long run of the fuzzer under the kernel's own checkers, in each first mode."""
    if not config.patched:
        raise BadInput("fuzz is for the series: leave SERIES=base unset")
    for arch in config.archs:
        status = check(dataclasses.replace(
            config, arch=(arch.name,), mode=(arch.modes[0].name,), config="debug",
            cases=("fuzz_memslots",), timeout=config.timeout or FUZZ_SECONDS,
            ops=FUZZ_OPS if config.ops is None else config.ops))
        if status:
            return status
    return 0
