# SPDX-License-Identifier: GPL-2.0
"""Run the cases on each architecture, in each of its modes.

With COMPARE=1 in the environment, which make sets for all cases of the series, say how
upstream's tests fare in comparison with the base.

usage: check.py [--plan] ARCH...    (what make check calls; knobs: see run.py)

--plan: only say what would run, or what is wrong with the knobs.

Exit status: ci/judge/verdict.py has the list.
"""
import sys

from ci.judge import upstream as baseline
from ci.judge import results as run


def check(archs):
    if archs[:1] == ["--plan"]:
        return run.show_plan(run.plan(archs[1:], "tests"))
    requests = list(run.requests(archs, "tests"))
    this = run.Run("check")
    try:
        for request in requests:
            this.boot(request)
        if run.knob("COMPARE"):
            this.unfinished = requests[0]
            baseline.compare_run(this)
            this.unfinished = None
    finally:
        status = this.summary()
    return status


if __name__ == "__main__":
    sys.exit(run.main(check, sys.argv[1:]))
