# SPDX-License-Identifier: GPL-2.0
# x86, as facts.  Read by make and by ci/facts/arch.py: only "name = value" lines.

# Toolchain and kernel
kernel_arch  = x86
kernel_image = arch/x86/boot/bzImage
cross        = x86_64-linux-gnu-
deb_arch     = amd64
# Where this architecture's own tests are, or were, in the KVM selftests
kvm_tests    = x86 x86_64

# The machine, L1.  EPYC: TCG emulates SVM but not VMX, so it takes a model of AMD's, and
# one with nested paging.  check=off: be quiet about what else EPYC has and TCG lacks.
qemu         = qemu-system-x86_64
machine      = microvm,acpi=off,isa-serial=on,rtc=on
cpu_tcg      = EPYC,check=off
cpu_kvm      = host
# vls: a CPU that does VMSAVE by itself leaves no operand for KVM to map (kvm_map_waits).
append       = console=ttyS0 reboot=t tsc=reliable kvm_amd.vls=0
# KHZ: of the counter that the emulated CPU has, see host_ticks.c
append_tcg   = tsc_early_khz=KHZ
# A slowed-down clock fails the check that there are enough ticks, and makes delays long.
append_lockstep = no_timer_check lpj=100000

# Modes: the boot parameters that ask for one, and what the kernel says on the
# console if it was obtained (a regular expression).  legacy: TDP with the MMU that
# shadow paging uses.
modes        = npt legacy shadow
mode_npt     = kvm_amd.npt=1 kvm_intel.ept=1
proof_npt    = (?s)init: kvm.tdp_mmu=Y.*init: kvm_(amd.npt|intel.ept)=Y
mode_legacy  = kvm_amd.npt=1 kvm_intel.ept=1 kvm.tdp_mmu=0
proof_legacy = (?s)init: kvm.tdp_mmu=N.*init: kvm_(amd.npt|intel.ept)=Y
mode_shadow  = kvm_amd.npt=0 kvm_intel.ept=0
proof_shadow = init: kvm_(amd.npt|intel.ept)=N
# Nested paging in TCG (QEMU 7.2 and 10.0) goes wrong if another thread changes the tables:
# a guest under stress shuts down or never exits, with npt on several threads alone.
threads_npt    = single
threads_legacy = single

page_size    = 4096

# Time limits of cases are multiplied by this under emulation.
scale_tcg    = 3
