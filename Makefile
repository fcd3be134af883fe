# SPDX-License-Identifier: GPL-2.0
#
# A thin front: `make COMMAND KNOB=value ...` is `python3 -m ci COMMAND` with these knobs in
# the environment.  `make help` lists both; ci/README.md says how it flows.

python   := /usr/bin/python3
commands := bench check check-bench check-harness check-mutants check-revision check-series clean \
	coverage deps dist fuzz help images profile reference revision scale series shell

.DEFAULT_GOAL := help
.PHONY: $(commands)
# What is run comes after what it needs: deps check.
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

# deps and help work on a machine that has nothing yet, python3 apart.
$(commands):
	@$(python) -m ci $@
