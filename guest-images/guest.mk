# SPDX-License-Identifier: GPL-2.0
#
# What one guest boots: kernel, programs, initramfs.  The top Makefile calls it as
#
#	make -f guest-images/guest.mk ARCH=x86 SERIES=patched ...
#
# tree -> .config -> kernel image; patched tree -> headers -> programs -> initramfs.
# The programs always come from the patched tree, so that both kernels run the same
# ones: a test that skips on the base was not built without what it tests.

.DELETE_ON_ERROR:

include guest-images/$(ARCH).mk

dir      := $(OUT)/$(SERIES)
tree     := $(abspath $(dir)/linux)
# make revision builds upstream's tests as each patch has them (TOOLS=), and takes ours from OURS=
tools    := $(abspath $(OUT)/$(or $(TOOLS),patched)/linux)
objects  := $(tree)/out-$(ARCH)$(CONFIG:%=-%)
image    := $(dir)/$(ARCH)$(CONFIG:%=-%)
progs    := $(OUT)/programs$(TOOLS:%=-%)/$(ARCH)
# What all bases want, then what this one calls otherwise
fragments := $(wildcard $(foreach d,guest-images kernel-patches/$(BASE),$d/kernel.config $d/$(ARCH).config \
	$(CONFIG:%=$d/%.config) $(CONFIG:%=$d/$(ARCH)-%.config)))

# CROSS_COMPILE is for the architecture that is not the host's.
host     := $(shell uname -m)
prefix   := $(if $(filter $(host),$(cross:%-linux-gnu-=%)),,$(or $(CROSS_COMPILE),$(cross)))
# LLVM=1, LLVM=-15 and LLVM=/path/, as for the kernel
llvm_prefix := $(filter %/,$(LLVM))
llvm_suffix := $(filter -%,$(LLVM))
compiler := $(if $(LLVM),$(llvm_prefix)clang$(llvm_suffix) --target=$(cross:%-=%),$(prefix)gcc)
strip    := $(if $(LLVM),$(llvm_prefix)llvm-strip$(llvm_suffix),$(prefix)strip)
# Paths below here relative, and no build directory in the hash: another clone hits.
ccache   := CCACHE_DIR=$(CACHE)/ccache CCACHE_BASEDIR=$(CURDIR) CCACHE_NOHASHDIR=1
# Without -j on make's command line there is no job server to take part in.
jobs     = $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(JOBS))

# Every tool that is missing, in one line, before anything is built
missing := $(strip $(foreach t,$(firstword $(compiler)) $(strip) ccache bc flex bison rsync, \
	$(if $(shell command -v $t),,$t)))
ifneq ($(missing),)
$(error not found: $(missing); run make deps, or mend PATH, CROSS_COMPILE= or LLVM=)
endif

# Work on the tree that is not in kernel-patches/ yet: built as it is, and named so.
local    := $(shell cd $(tree) && unset $$(git rev-parse --local-env-vars) && \
	[ -z "$$(git status --porcelain)" ] && [ "$$(git rev-parse HEAD)" = "$$(cat .git/applied.head)" ] || echo -local)
ifneq ($(local),)
$(info note: $(dir)/linux differs from the $(SERIES) tree of kernel-patches/; the release says so)
endif

# Fixed identity: one series and one compiler give one image.
kbuild = env $(ccache) KBUILD_BUILD_VERSION=1 KBUILD_BUILD_TIMESTAMP=1970-01-01 KBUILD_BUILD_USER=kvm KBUILD_BUILD_HOST=harness \
	$(MAKE) $(jobs) -C $(tree) O=$(objects) ARCH=$(kernel_arch) CROSS_COMPILE=$(prefix) \
	LOCALVERSION=-$(SERIES)-$(SERIES_ID)$(local) $(if $(LLVM),LLVM=$(LLVM),CC="ccache $(compiler)" HOSTCC="ccache gcc")
# CONFIG=gcov profiles the C files of KVM that the series changes, by kbuild's variable for
# each object, which is named relative to the directory that builds it.
changed  = $(shell sed -n 's,^+++ b/\(.*\)\.c$$,\1,p' kernel-patches/$(BASE)/*.patch | sort -u)
profiled = $(patsubst virt/kvm/%,../../../virt/kvm/%,$(filter virt/kvm/%,$(changed))) \
	$(patsubst arch/$(kernel_arch)/kvm/%,%,$(filter arch/$(kernel_arch)/kvm/%,$(changed)))
kbuild   += $(if $(filter gcov,$(CONFIG)),$(patsubst %,GCOV_PROFILE_%.o=y,$(profiled)))
step = /usr/bin/python3 -m ci.build.progress $(if $(filter 1,$(V)),--verbose) "$(ARCH) $(SERIES): $1" $(image).logs/$2.log

case_files := selftests/cases bench/cases bench/scale
# The first word of each command that runs on this architecture
wanted   := $(sort $(shell awk '/^[^\#]/ { if ("," $$2 ~ /,(all|$(ARCH))/) print $$5 }' $(case_files)))
kvm_dir  := $(tools)/tools/testing/selftests/kvm
own_dir  := $(notdir $(firstword $(wildcard $(kvm_tests:%=$(kvm_dir)/%))))
sources  := $(foreach p,$(wanted),$(firstword $(wildcard selftests/$p.c bench/$p.c $(kvm_dir)/$p.c $(kvm_dir)/$(own_dir)/$p.c)))
# Ours are given by name alone and found by VPATH; the tree's by path within it.
ours     := $(basename $(notdir $(filter-out $(kvm_dir)/%,$(sources))))
theirs   := $(basename $(patsubst $(kvm_dir)/%,%,$(filter $(kvm_dir)/%,$(sources))))

.PHONY: all kernel programs initramfs-shell initramfs-profile dist
all: $(image).kernel $(progs)/initramfs.cpio $(OUT)/host_ticks $(foreach api,1 2 3,$(OUT)/lockstep-$(api).so $(OUT)/timeline-$(api).so)

# --- kernel ---

$(objects)/.config: $(fragments) ci/build/config_check.py $(tree)/.git/applied
	@mkdir -p $(objects)
	@rm -f $@
	+$(Q)$(kbuild) -s tinyconfig
	$(Q)cd $(tree) && scripts/kconfig/merge_config.sh -m -O $(objects) $(objects)/.config \
		$(abspath $(fragments)) > $(objects)/merge.log
	+$(Q)$(kbuild) -s olddefconfig
	$(Q)/usr/bin/python3 -m ci.build.config_check $@ $(fragments) || { rm -f $@; exit 2; }

# Phony on purpose: kbuild knows what is stale.
kernel: $(objects)/.config
	+@$(call step,kernel,kernel) $(kbuild) $(notdir $(kernel_image))

$(image).kernel: kernel
	@cmp -s $(objects)/$(kernel_image) $@ || cp $(objects)/$(kernel_image) $@
	@cp $(objects)/.config $(image).config
	@cp $(objects)/include/config/kernel.release $(image).release
	@cp $(objects)/System.map $(image).map
	@$(compiler) --version | head -n 1 > $(image).compiler

# --- programs ---

# A file that is named after what it would have to say
compiler_id := $(progs).$(shell $(compiler) --version | cksum | tr ' ' -)
$(compiler_id):
	@mkdir -p $(@D) && rm -f $(progs).[0-9]* && touch $@

# Their makefile doesn't know that its flags come from here: start anew if they may
# have changed.
$(progs)/made-by: guest-images/guest.mk guest-images/$(ARCH).mk $(compiler_id)
	@rm -rf $(progs) && mkdir -p $(progs)/tools && touch $@

headers := $(progs)/usr/include
$(headers)/linux/kvm.h: $(tools)/.git/applied $(tools)/include/uapi/linux/kvm.h $(progs)/made-by
	+@$(call step,headers,headers) $(MAKE) $(jobs) -C $(tools) O=$(abspath $(progs))/headers ARCH=$(kernel_arch) \
		INSTALL_HDR_PATH=$(abspath $(progs))/usr headers_install
	@touch $@

# The kernel tree's own selftests makefile builds ours too: TEST_GEN_PROGS, LIBKVM
# and VPATH in the environment survive its "+=".  Theirs are built apart, so that
# nothing of ours is linked into them.
kselftest = env $(ccache) $1 $(MAKE) $(jobs) -C $(kvm_dir) OUTPUT=$(abspath $(progs)) \
	abs_objdir=$(abspath $(progs)) ARCH=$(kernel_arch) CROSS_COMPILE=$(prefix) \
	CC="ccache $(compiler)" LDFLAGS=-static KHDR_INCLUDES="-isystem $(abspath $(headers))" \
	EXTRA_CFLAGS="-DDEBUG -I$(abspath selftests) -I$(abspath bench) -Iinclude/$(own_dir)" $(addprefix $(abspath $(progs))/,$2)

# ccache names an object relative to the source in the file of its dependencies, where make
# looks for it by its path: put that there.
programs: $(headers)/linux/kvm.h
	@for p in $(wanted); do case " $(notdir $(ours) $(theirs)) " in *" $$p "*) ;; \
		*) echo "guest.mk: no source for program $$p, named in $(case_files)" >&2; exit 2;; esac; done
	@find $(progs) -name '*.d' -exec sed -i '1s,^[^ ]*programs/$(ARCH)/,$(abspath $(progs))/,' {} +
	+@$(call step,upstream tests,upstream) $(call kselftest,,$(theirs))
	$(if $(OURS),,+@$(call step,our tests,programs) $(call kselftest,TEST_GEN_PROGS="$(ours)" \
		VPATH="$(abspath selftests):$(abspath bench)" LIBKVM="$(notdir $(wildcard selftests/lib_*.c bench/lib_*.c))",$(ours)))

$(progs)/init: guest-images/init.c $(progs)/made-by
	$(Q)env $(ccache) ccache $(compiler) -O2 -Wall -Wextra -Werror -static $< -o $@

# For each API of QEMU's plugins; ci/boot/qemu.py takes the one that fits
define plugin
$(OUT)/$1-%.so: bench/lockstep/$1.c bench/lockstep/plugin.h
	$(Q)gcc -O2 -Wall -Wextra -Wno-sign-compare -Werror -fPIC -shared -fvisibility=hidden -DPLUGIN_API=$$* $$< -o $$@
endef
$(foreach p,lockstep timeline,$(eval $(call plugin,$p)))

$(OUT)/host_ticks: guest-images/host_ticks.c
	$(Q)gcc -O2 -Wall -Wextra -Werror $< -o $@

# --- image: a text list, which gen_init_cpio turns into the initramfs ---

dist_files := bench/dist/run-bench bench/dist/run-tests bench/dist/report
# With a shell, it is another image; with perf, a third one.
suffix   := $(if $(PERF),-profile,$(if $(BUSYBOX),-shell))
$(progs)/image$(suffix).list: $(case_files) $(PERF:%=%.list) guest-images/guest.mk $(progs)/made-by
	@set -e; { printf 'dir /%s 0755 0 0\n' dev proc sys tmp bin cases; \
	printf 'nod /dev/console 0600 0 0 c 5 1\nfile /init %s/init 0755 0 0\n' $(progs); \
	printf 'file /cases/%s 0644 0 0\n' 'tests selftests/cases' 'bench bench/cases' 'scale bench/scale'; \
	for p in $(ours) $(theirs); do \
		printf 'file /bin/%s %s/bin/%s 0755 0 0\n' $${p##*/} $(progs) $${p##*/}; done; \
	if [ -n "$(BUSYBOX)" ]; then printf 'file /bin/busybox %s 0755 0 0\nslink /bin/sh busybox 0755 0 0\n' $(BUSYBOX); \
		for f in $(dist_files); do printf 'file /%s %s 0755 0 0\n' $${f##*/} $$f; done; fi; \
	if [ -n "$(PERF)" ]; then cat $(PERF).list; printf 'file /bin/profile bench/profile 0755 0 0\n'; \
		sed 's/scale_bench/profile/' bench/scale > $(progs)/profile.cases; \
		printf 'file /cases/profile %s 0644 0 0\n' $(progs)/profile.cases; \
		printf 'slink /bin/%s busybox 0755 0 0\n' awk cat grep mount rm; fi; \
	} > $@.new; mv $@.new $@

$(progs)/initramfs$(suffix).cpio: programs $(progs)/image$(suffix).list $(progs)/init
	@mkdir -p $(progs)/bin
	@for p in $(if $(OURS),,$(ours)) $(theirs); do $(strip) -o $(progs)/bin/$${p##*/} $(progs)/$$p || exit; done
	$(if $(OURS),@cp $(ours:%=$(OURS)/%) $(progs)/bin)
	@gcc -O2 -o $(progs)/gen_init_cpio $(tools)/usr/gen_init_cpio.c
	@$(progs)/gen_init_cpio -t 0 $(progs)/image$(suffix).list > $@.new && mv $@.new $@

initramfs-shell: $(progs)/initramfs-shell.cpio
initramfs-profile: $(progs)/initramfs-profile.cpio

# --- the same programs for a machine of its own ---

dist     := $(OUT)/dist/kvm-fast-only-$(ARCH)
dist: $(progs)/initramfs.cpio
	@rm -rf $(dist) && mkdir -p $(dist)/bin $(dist)/cases
	@cp $(progs)/bin/* $(dist)/bin && cp $(dist_files) $(dist)
	@cp selftests/cases $(dist)/cases/tests && cp bench/cases $(dist)/cases/bench && cp bench/scale $(dist)/cases/scale
	@tar -C $(OUT)/dist --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -czf $(dist).tar.gz $(notdir $(dist))
	@echo "  $(dist).tar.gz"
