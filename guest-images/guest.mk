# SPDX-License-Identifier: GPL-2.0
#
# The only builder: kernel, programs, initramfs of one guest.  ci/build/images.py calls it as
#
#	make -f guest-images/guest.mk ARCH=x86 BASE=v6.12 OUT=build/v6.12 SERIES=patched \
#		SERIES_ID=12345678 CONFIG= LOCAL= CACHE=/abs/path PROGRAMS="a b" -j2 TARGET
#
# tree -> .config -> kernel image; patched tree -> headers -> programs -> initramfs.
# The programs always come from the patched tree, so that both kernels run the same ones: a
# test that skips on the base was not built without what it tests.

.DELETE_ON_ERROR:

include guest-images/$(ARCH).mk

dir      := $(OUT)/$(SERIES)
tree     := $(abspath $(dir)/linux)
# make revision builds upstream's tests as each patch has them (TOOLS=), and takes ours from OURS=.
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
linker   := $(if $(LLVM),$(llvm_prefix)ld.lld$(llvm_suffix),$(prefix)ld)
# kbuild adds clang's --target= by itself.
cc       := ccache $(firstword $(compiler))
hostcc   := ccache $(if $(LLVM),$(llvm_prefix)clang$(llvm_suffix),gcc)
# Paths below here relative, and no build directory in the hash: another clone hits.  With
# dependencies instead of a second run of the preprocessor: 57 s of compiling instead of 82.
ccache   := CCACHE_DIR=$(CACHE)/ccache CCACHE_BASEDIR=$(CURDIR) CCACHE_NOHASHDIR=1 CCACHE_DEPEND=1

# Every tool that is missing, in one line, before anything is built
missing := $(strip $(foreach t,$(firstword $(compiler)) $(strip) $(linker) ccache bc flex bison rsync, \
	$(if $(shell command -v $t),,$t)))
ifneq ($(missing),)
$(error not found: $(missing); run make deps, or mend PATH, CROSS_COMPILE= or LLVM=)
endif

# Fixed identity: one series and one compiler give one image.
kbuild = env $(ccache) KBUILD_BUILD_VERSION=1 KBUILD_BUILD_TIMESTAMP=1970-01-01 \
	KBUILD_BUILD_USER=kvm KBUILD_BUILD_HOST=harness \
	$(MAKE) -C $(tree) O=$(objects) ARCH=$(kernel_arch) CROSS_COMPILE=$(prefix) \
	LOCALVERSION=-$(SERIES)-$(SERIES_ID)$(LOCAL) $(LLVM:%=LLVM=%) CC="$(cc)" HOSTCC="$(hostcc)"
# CONFIG=gcov profiles C files of KVM and genirq that the series changes, by kbuild's variable for
# each object, which is named relative to the directory that builds it.
changed  = $(shell sed -n 's,^+++ b/\(.*\)\.c$$,\1,p' kernel-patches/$(BASE)/*.patch | sort -u)
profiled = $(patsubst virt/kvm/%,../../../virt/kvm/%,$(filter virt/kvm/%,$(changed))) \
	$(patsubst arch/$(kernel_arch)/kvm/%,%,$(filter arch/$(kernel_arch)/kvm/%,$(changed))) \
	$(patsubst kernel/irq/%,%,$(filter kernel/irq/%,$(changed)))
kbuild   += $(if $(filter gcov,$(CONFIG)),$(patsubst %,GCOV_PROFILE_%.o=y,$(profiled)))

case_files := selftests/cases bench/cases bench/scale
# The programs of the cases that run on this architecture: PROGRAMS=
wanted   := $(sort $(PROGRAMS))
kvm_dir  := $(tools)/tools/testing/selftests/kvm
own_dir  := $(notdir $(firstword $(wildcard $(kvm_tests:%=$(kvm_dir)/%))))
sources  := $(foreach p,$(wanted),$(firstword $(wildcard selftests/$p.c bench/$p.c $(kvm_dir)/$p.c $(kvm_dir)/$(own_dir)/$p.c)))
# Ours are given by name alone and found by VPATH; the tree's by path within it.
ours     := $(basename $(notdir $(filter-out $(kvm_dir)/%,$(sources))))
theirs   := $(basename $(patsubst $(kvm_dir)/%,%,$(filter $(kvm_dir)/%,$(sources))))

.PHONY: facts configuration kbuild kernel headers upstream ours all initramfs-shell initramfs-profile dist

# What ci/build/images.py wants to know; each fact of a compiler has its only owner here.
define facts
cross = $(prefix)
cc = $(cc)
hostcc = $(hostcc)
llvm = $(LLVM)
version = $(shell $(compiler) --version | head -n 1)
linker = $(shell $(linker) --version | head -n 1)
ccache = $(ccache)
fragments = $(fragments)
endef
facts:
	$(info $(facts))@:

# --- kernel ---

$(objects)/.config: $(fragments) $(tree)/.git/applied
	mkdir -p $(objects)
	rm -f $@
	+$(kbuild) -s tinyconfig
	cd $(tree) && scripts/kconfig/merge_config.sh -m -O $(objects) $(objects)/.config $(abspath $(fragments))
	+$(kbuild) -s olddefconfig

configuration: $(objects)/.config
	@mkdir -p $(dir)
	@cp $< $(image).config

# Phony on purpose: kbuild knows what is stale.
kbuild: $(objects)/.config
	+$(kbuild) $(notdir $(kernel_image))

$(image).kernel: kbuild
	@cmp -s $(objects)/$(kernel_image) $@ || cp $(objects)/$(kernel_image) $@
	@cp $(objects)/.config $(image).config
	@cp $(objects)/include/config/kernel.release $(image).release
	@cp $(objects)/System.map $(image).map
	@$(compiler) --version | head -n 1 > $(image).compiler

kernel: $(image).kernel

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
	+$(MAKE) -C $(tools) O=$(abspath $(progs))/headers ARCH=$(kernel_arch) \
		INSTALL_HDR_PATH=$(abspath $(progs))/usr headers_install
	@touch $@

# The kernel tree's own selftests makefile builds ours too: TEST_GEN_PROGS, LIBKVM
# and VPATH in the environment survive its "+=".  Theirs are built apart, so that
# nothing of ours is linked into them.  Without the path of this clone in __FILE__, any clone
# makes the same programs, and counts the same instructions.
kselftest = env $(ccache) $1 $(MAKE) -C $(kvm_dir) OUTPUT=$(abspath $(progs)) \
	abs_objdir=$(abspath $(progs)) ARCH=$(kernel_arch) CROSS_COMPILE=$(prefix) \
	CC="ccache $(compiler)" LDFLAGS=-static KHDR_INCLUDES="-isystem $(abspath $(headers))" \
	EXTRA_CFLAGS="-DDEBUG -fmacro-prefix-map=$(CURDIR)/= -I$(abspath selftests) -I$(abspath bench) -Iinclude/$(own_dir)" $(addprefix $(abspath $(progs))/,$2)

headers: $(headers)/linux/kvm.h

# ccache names an object relative to the source in the file of its dependencies, where make
# looks for it by its path: put that there.
upstream: $(headers)/linux/kvm.h
	@for p in $(wanted); do case " $(notdir $(ours) $(theirs)) " in *" $$p "*) ;; \
		*) echo "guest.mk: no source for program $$p, named in $(case_files)" >&2; exit 2;; esac; done
	@find $(progs) -name '*.d' -exec sed -i '1s,^[^ ]*programs/$(ARCH)/,$(abspath $(progs))/,' {} +
	+$(call kselftest,,$(theirs))

ours: upstream
	$(if $(OURS),,+$(call kselftest,TEST_GEN_PROGS="$(ours)" \
		VPATH="$(abspath selftests):$(abspath bench)" LIBKVM="$(notdir $(wildcard selftests/lib_*.c bench/lib_*.c))",$(ours)))

all: $(progs)/initramfs.cpio $(OUT)/host_ticks $(foreach api,1 2 3,$(OUT)/lockstep-$(api).so $(OUT)/timeline-$(api).so)

$(progs)/init: guest-images/init.c $(progs)/made-by
	env $(ccache) ccache $(compiler) -O2 -Wall -Wextra -Werror -static $< -o $@

# For each API of QEMU's plugins; ci/boot/request.py takes the one that fits
define plugin
$(OUT)/$1-%.so: bench/lockstep/$1.c bench/lockstep/plugin.h
	gcc -O2 -Wall -Wextra -Wno-sign-compare -Werror -fPIC -shared -fvisibility=hidden -DPLUGIN_API=$$* $$< -o $$@
endef
$(foreach p,lockstep timeline,$(eval $(call plugin,$p)))

$(OUT)/host_ticks: guest-images/host_ticks.c
	gcc -O2 -Wall -Wextra -Werror $< -o $@

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

$(progs)/initramfs$(suffix).cpio: ours $(progs)/image$(suffix).list $(progs)/init
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
