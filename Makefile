# SPDX-License-Identifier: GPL-2.0
#
# From a patch series to a verdict and a number: `make help`.

# The kernel that the series is for, if none is named
DEFAULT_BASE := v6.12
# Whose patches go onto somebody's tree
KERNEL_BASE  := mainline

# Knobs; `make help` prints their values.
ARCH    ?=
SERIES  ?= patched
BASE    ?= $(if $(KERNEL),$(KERNEL_BASE),$(DEFAULT_BASE))
KERNEL  ?=
CASES   ?=
MODE    ?=
CONFIG  ?=
ACCEL   ?= tcg
QEMU    ?=
TIMEOUT ?=
CPUS    ?= 2
SEED    ?=
STRESS  ?=
OPS     ?=
MUTANTS ?=
FULL    ?=
VCPUS   ?=
BOOTS   ?=
RESUME  ?=
OF      ?=
AGAINST ?=
PATCHES ?=
MATRIX  ?=
V       ?= 0
O       ?= build
CACHE   ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kvm-fast-only
RESULTS ?= $(if $(filter build,$(O)),results,$(O)/results)
JOBS    ?= $(shell nproc)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
# What is run comes after what it needs, also if both are named: deps check.  The
# sub-makes that compile keep -j.
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory
# Of make series, V is the number of what is mailed
verbose := $(if $(filter series,$(MAKECMDGOALS)),0,$(V))
Q := $(if $(filter 1,$(verbose)),,@)
python := /usr/bin/python3

# What a plan is asked of
module_check    := judge.suite
module_bench    := measure.faults
module_scale    := measure.scaling
module_profile  := measure.contention
module_revision := revision.judge
module_mutants  := proof.mutants
module_plants   := proof.plants
module_spoil    := proof.spoiled

# --- bad input is refused before anything is built ---

known := $(sort $(basename $(notdir $(wildcard guest-images/*.mk))))
known := $(filter-out guest,$(known))
alias_x86_64 := x86
alias_aarch64 := arm64
archs := $(if $(ARCH),$(or $(alias_$(ARCH)),$(ARCH)),$(known))

ifneq ($(words $(CURDIR)),1)
$(error the path "$(CURDIR)" has a space in it, which make cannot handle; clone to another place)
endif
ifneq ($(filter-out $(known),$(archs)),)
$(error unknown ARCH=$(ARCH); choose one of: $(known) (aliases: x86_64 aarch64), or leave it unset for all)
endif
ifneq ($(words $(O) $(CACHE) $(RESULTS)),3)
$(error O=$(O), CACHE=$(CACHE), RESULTS=$(RESULTS): no spaces, and none empty; name other places)
endif
ifeq ($(filter $(words $(SERIES))$(words $(BASE)),11),)
$(error SERIES=$(SERIES), BASE=$(BASE): one of each, please)
endif
# Commits of somebody's tree in place of our patches
# (a make below this one asks for the base of the same)
RANGE := $(if $(KERNEL),$(or $(if $(findstring ..,$(SERIES)),$(SERIES)),$(if $(filter-out 0,$(MAKELEVEL)),$(RANGE))))
ifneq ($(if $(KERNEL),$(findstring ..,$(SERIES))),)
override SERIES := patched
endif
ifneq ($(filter-out base patched,$(SERIES)),)
$(error unknown SERIES=$(SERIES); choose patched or base, or with KERNEL= a range of its commits, as in HEAD~8..HEAD)
endif
# By name: a path would be one to remove as well
bases := $(notdir $(patsubst %/base,%,$(wildcard kernel-patches/*/base)))
ifneq ($(filter-out $(bases),$(BASE)),)
$(error unknown BASE=$(BASE); choose one of: $(bases))
endif
ifneq ($(CONFIG),)
ifeq ($(wildcard guest-images/$(CONFIG).config),)
$(error unknown CONFIG=$(CONFIG); there is no guest-images/$(CONFIG).config)
endif
endif

ifneq ($(KERNEL),)
ifneq ($(words $(KERNEL)),1)
$(error KERNEL=$(KERNEL): no spaces)
endif
ifneq ($(filter check-mutants check-bench check-revision check-series coverage revision series reference,$(MAKECMDGOALS)),)
$(error KERNEL= is for check, bench, scale, fuzz, profile, images, dist and shell; what judges our own series wants a base of kernel-patches/)
endif
endif

# Targets with a kernel of their own: the images are built once, for one CONFIG.
ifneq ($(filter profile coverage,$(MAKECMDGOALS)),)
ifneq ($(CONFIG)$(filter-out profile coverage reference deps,$(MAKECMDGOALS))$(word 2,$(filter profile coverage,$(MAKECMDGOALS))),)
$(error profile and coverage set CONFIG themselves, and build other images: run them alone)
endif
endif

ifneq ($(filter revision,$(MAKECMDGOALS)),)
ifneq ($(MODE)$(CASES)$(CONFIG)$(filter base,$(SERIES)),)
$(error revision sets MODE, CASES, CONFIG and SERIES itself: ci/matrix, ci/metrics; PATCHES= picks patches)
endif
endif

ifneq ($(filter fuzz,$(MAKECMDGOALS)),)
ifneq ($(MODE)$(CASES)$(CONFIG)$(filter base,$(SERIES)),)
$(error fuzz sets MODE, CASES, CONFIG and SERIES itself: the first mode, with the kernel's checkers)
endif
endif

# --- what is built ---

OUT := $(O)/$(if $(KERNEL),kernel,$(BASE))
# Without the cover letter: no kernel depends on it
patches := $(filter-out %/0000-cover-letter.patch,$(sort $(wildcard kernel-patches/$(BASE)/*.patch)))
# What the release says: the patches, and of somebody's tree the commits
# as they are now: what is committed while this builds is for the next make
KERNEL_COMMITS := $(or $(if $(filter-out 0,$(MAKELEVEL)),$(KERNEL_COMMITS)),$(if $(KERNEL),$(shell \
	git -c safe.directory='*' -C $(KERNEL) rev-parse $(or $(subst .., ,$(RANGE)),HEAD) 2> /dev/null)))
id_of = $(shell { echo '$1' | sed '/^$$/d'; cat /dev/null $2; } | sha256sum | cut -c1-8)
BASE_ID := $(call id_of,$(firstword $(KERNEL_COMMITS)))
SERIES_ID := $(if $(filter patched,$(SERIES)),$(call id_of,$(KERNEL_COMMITS),$(if $(RANGE),,$(patches))),$(BASE_ID))
COMMITS := $(if $(filter patched,$(SERIES)),$(KERNEL_COMMITS),$(firstword $(KERNEL_COMMITS)))
export KERNEL RANGE KERNEL_BASE KERNEL_COMMITS COMMITS SERIES_ID BASE_ID CACHE O LLVM CROSS_COMPILE DEFAULT_BASE MODE ACCEL QEMU TIMEOUT CPUS SEED STRESS OPS MUTANTS FULL VCPUS BOOTS RESUME OF AGAINST PATCHES MATRIX CONFIG BASE SERIES CASES OUT RESULTS

.PHONY: base-images help deps check bench images check-harness check-series check-mutants check-bench check-revision coverage fuzz scale profile revision series dist shell clean reference

guest = $(MAKE) -f guest-images/guest.mk OUT=$(OUT) SERIES=$(SERIES) SERIES_ID=$(SERIES_ID) \
	CONFIG=$(CONFIG) CACHE=$(CACHE) JOBS=$(JOBS) V=$(verbose) Q=$(Q) LLVM=$(LLVM) CROSS_COMPILE=$(CROSS_COMPILE)
# One build at a time in one place; a second one waits.
lock = @mkdir -p $(O); exec 9> $(O)/lock; \
	flock -n 9 || { echo "  another make is building in $(O); waiting for it"; flock 9; };

# Both trees may be needed: programs always come from the patched one.
trees = for s in $(sort patched $(SERIES)); do \
	$(python) -m ci.build.progress "$(BASE) $$s: tree" $(OUT)/$$s.tree.log \
	kernel-patches/apply kernel-patches/$(BASE) $$s $(CACHE) $(OUT)/$$s/linux || exit; done

# make -n must not build, though the line below is for sub-makes
dry = $(findstring n,$(firstword -$(MAKEFLAGS)))
images:
	+$(if $(dry),@echo "images for $(archs)",$(lock) $(trees); for a in $(archs); do $(guest) ARCH=$$a || exit; done)

# --- what is run ---

# The plan first: bad knobs are refused before anything is built.  While guests run,
# another make must not replace what they boot.
running = @exec 9< $(O)/lock; flock -s 9;
# All cases of the series: then also how upstream's fare on the base
whole := $(if $(filter patched,$(SERIES)),$(if $(CASES)$(CONFIG),,1))
check: plan-check check-harness images $(if $(whole),base-images)
	$(running) COMPARE=$(whole) $(python) -m ci.judge.suite $(archs)

base-images: images
	+@$(MAKE) images SERIES=base

bench: plan-bench images
	$(running) $(python) -m ci.measure.faults $(archs)

scale: plan-scale images
	$(running) $(python) -m ci.measure.scaling $(archs)

coverage: CONFIG := gcov
coverage: plan-check images
	$(running) $(python) -m ci.proof.coverage $(archs)

# A long run of the fuzzer under the kernel's own checkers, in each first mode
fuzz: OPS := $(or $(OPS),1000000)
fuzz:
	+@for a in $(archs); do $(MAKE) check ARCH=$$a CONFIG=debug CASES=fuzz_memslots OPS=$(OPS) \
		TIMEOUT=$(or $(TIMEOUT),7200) MODE=$$(sed -n 's/^modes *= *\([^ ]*\).*/\1/p' guest-images/$$a.mk) || exit; done

plan-%:
	$(if $(KERNEL),@kernel-patches/apply kernel-patches/$(BASE) $(SERIES) $(CACHE) -)
	$(Q)$(python) -m ci.$(module_$*) --plan $(archs)

# A tree and an image of their own: the rest can be built meanwhile.
check-mutants: plan-mutants images
	+$(call on_broken_series,mutants)

# Known costs: does make bench, does make scale say so?
check-bench: plan-plants images
	+$(call on_broken_series,plants)

on_broken_series = $(if $(dry),@echo "$1 for $(archs)",@mkdir -p $(OUT)/mutant; exec 8> $(OUT)/mutants.lock; \
	flock -n 8 || { echo "  another make tries mutants in $(OUT); waiting for it"; flock 8; }; \
	$(python) -m ci.build.progress "$(BASE) mutant: tree" $(OUT)/mutant.tree.log \
		kernel-patches/apply kernel-patches/$(BASE) patched $(CACHE) $(OUT)/mutant/linux && \
	$(copy_initramfs) && GUEST='$(subst SERIES=$(SERIES),SERIES=mutant,$(guest))' TREE=$(OUT)/mutant/linux \
		$(python) -m ci.proof.$1 $(archs))

# Each patch and the whole, in a tree of its own; another make must not replace our programs.
revision: plan-revision images
	+$(if $(dry),@echo "revision for $(archs)",$(running) mkdir -p $(OUT)/revision; exec 8> $(OUT)/revision.lock; \
		flock -n 8 || { echo "  another make judges a revision in $(OUT); waiting for it"; flock 8; }; \
		GUEST='$(subst SERIES_ID=$(SERIES_ID),SERIES_ID=each,$(subst SERIES=$(SERIES),SERIES=revision,$(guest)))' \
		exec $(python) -m ci.revision.judge $(archs))

# Is a spoiled patch what make revision finds first?
check-revision: plan-spoil images
	+$(call on_broken_series,spoiled)

# What is mailed; here V is its number.
series: images
	$(Q)$(python) -m ci.publish.mail $(V)

copy_initramfs = (exec 9< $(O)/lock; flock -s 9; \
	for a in $(archs); do cp $(OUT)/programs/$$a/initramfs.cpio $(OUT)/mutant/$$a.cpio || exit; done)

reference:
	$(Q)$(python) -m ci.publish.readme $(RESULTS)/latest

check-harness:
	$(Q)$(python) -m unittest discover -s ci/tests -t . -p 'test_*.py' $(if $(filter 1,$(verbose)),-v,-q)

check-series: images
	+$(if $(dry),@echo "series for $(archs)",$(lock) kernel-patches/check $(OUT)/patched/linux kernel-patches/$(BASE) $(archs))

# For machines whose kernel has the series: static programs, the cases, what runs them
dist: images
	+$(if $(dry),@echo "tarballs for $(archs)",$(lock) for a in $(archs); do $(guest) ARCH=$$a dist || exit; done)

# What perf sees, on a kernel that has it
profile: CONFIG := profile
profile: plan-profile images
	+$(if $(dry),@echo "profiles of $(archs)",$(lock) for a in $(archs); do \
		perf=$(OUT)/perf-$$a deb_arch=$$(sed -n 's/^deb_arch *= *//p' guest-images/$$a.mk); \
		test -f $(OUT)/busybox-$$a || guest-images/busybox $$deb_arch $(OUT)/busybox-$$a || exit; \
		test -f $$perf.list || guest-images/perf $$deb_arch $$perf || exit; \
		$(guest) ARCH=$$a BUSYBOX=$(OUT)/busybox-$$a PERF=$$perf initramfs-profile || exit; done)
	$(running) $(python) -m ci.measure.contention $(archs)

shell: arch := $(firstword $(archs))
shell: images
	$(Q)test -f $(OUT)/busybox-$(arch) || guest-images/busybox \
		$$(sed -n 's/^deb_arch *= *//p' guest-images/$(arch).mk) $(OUT)/busybox-$(arch)
	$(Q)$(guest) ARCH=$(arch) BUSYBOX=$(OUT)/busybox-$(arch) initramfs-shell
	$(Q)$(python) -m ci.boot.shell $(arch)

clean:
	$(Q)test -f $(O)/lock || { echo "clean: $(O) was not built by this Makefile; nothing removed" >&2; exit 2; }
	rm -rf $(OUT)

deps:
	$(Q)ci/deps

help:
	@cat ci/help.txt
	@$(foreach k,ARCH MODE SERIES BASE KERNEL CASES CONFIG ACCEL QEMU TIMEOUT CPUS SEED STRESS OPS MUTANTS FULL VCPUS BOOTS RESUME OF AGAINST PATCHES MATRIX O V JOBS CACHE RESULTS \
		LLVM CROSS_COMPILE, printf '  %-13s = %s\n' $(k) '$($(k))';)
