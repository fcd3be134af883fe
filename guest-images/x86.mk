# SPDX-License-Identifier: GPL-2.0
# The facts of x86, read by make and ci/facts/arch.py: only "name = value" lines.

# Toolchain and kernel
kernel_arch  = x86
kernel_image = arch/x86/boot/bzImage
cross        = x86_64-linux-gnu-
deb_arch     = amd64
# The directory of this architecture's tests in the KVM selftests, now and in older kernels
kvm_tests    = x86 x86_64

# The machine, L1.  EPYC: TCG emulates SVM but not VMX, so it takes an AMD model with
# nested paging.  check=off: no warnings about other features of EPYC that TCG lacks.
qemu         = qemu-system-x86_64
machine      = microvm,acpi=off,isa-serial=on,rtc=on
cpu_tcg      = EPYC,check=off
cpu_kvm      = host
# vls=0: with virtual VMSAVE, KVM would have no operand to map (kvm_map_waits).
append       = console=ttyS0 reboot=t tsc=reliable kvm_amd.vls=0
# KHZ: frequency of the emulated CPU's counter, see host_ticks.c
append_tcg   = tsc_early_khz=KHZ
# A slowed-down clock fails the check for enough ticks, and prolongs delays.
append_lockstep = no_timer_check lpj=100000

# Modes: mode_* has the boot parameters, proof_* a regular expression that matches the
# console if and only if the mode was obtained.  legacy: TDP with the MMU that shadow
# paging uses.
modes        = npt legacy shadow
mode_npt     = kvm_amd.npt=1 kvm_intel.ept=1
proof_npt    = (?s)init: kvm.tdp_mmu=Y.*init: kvm_(amd.npt|intel.ept)=Y
mode_legacy  = kvm_amd.npt=1 kvm_intel.ept=1 kvm.tdp_mmu=0
proof_legacy = (?s)init: kvm.tdp_mmu=N.*init: kvm_(amd.npt|intel.ept)=Y
mode_shadow  = kvm_amd.npt=0 kvm_intel.ept=0
proof_shadow = init: kvm_(amd.npt|intel.ept)=N
# Nested paging in TCG (QEMU 7.2 and 10.0) goes wrong if another thread changes the tables.
# A guest under stress then shuts down or never exits: only with npt on several threads.
threads_npt    = single
threads_legacy = single

page_size    = 4096

# Factor for the time limits of cases under emulation
scale_tcg    = 3
