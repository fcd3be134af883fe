# SPDX-License-Identifier: GPL-2.0
# The facts of arm64, read by make and ci/facts/arch.py: only "name = value" lines.

# Toolchain and kernel
kernel_arch  = arm64
kernel_image = arch/arm64/boot/Image
cross        = aarch64-linux-gnu-
deb_arch     = arm64
# The directory of this architecture's tests in the KVM selftests, now and in older kernels
kvm_tests    = arm64 aarch64

# The machine, L1: with EL2, and a CPU that has VHE.
qemu         = qemu-system-aarch64
machine      = virt,virtualization=on,gic-version=3,mte=on
cpu_tcg      = max,pauth-impdef=on
cpu_kvm      = host
append       = console=ttyAMA0
append_tcg   =
append_lockstep =

# Modes: mode_* has the boot parameters, proof_* a regular expression that matches the
# console if and only if the mode was obtained.  nogic: the device tree names no maintenance
# interrupt, so KVM cannot use the GIC, and prints nothing about it.  protected: pKVM; a
# hypervisor at EL2 makes the stage-2 mappings, also for VMs that are not protected.
# Modes in "named" run only the cases that name them.
modes        = vhe nvhe nogic protected
named        = nogic protected
mode_vhe     =
proof_vhe    = (?s)vgic interrupt IRQ.*kvm \[1\]: VHE(\+NV2)? mode initialized successfully
mode_nvhe    = kvm-arm.mode=nvhe
proof_nvhe   = (?s)vgic interrupt IRQ.*kvm \[1\]: Hyp nVHE mode initialized successfully
mode_nogic   =
proof_nogic  = kvm \[1\]: IPA Size Limit: .*\n(?:(?!.*kvm \[1\]).*\n)*.*kvm \[1\]: VHE mode initialized successfully
mode_protected = kvm-arm.mode=protected
proof_protected = kvm \[1\]: Protected [nh]VHE(\+NV2)? mode initialized successfully
without_nogic = /intc@8000000 interrupts

page_size    = 4096

# Factor for the time limits of cases under emulation
scale_tcg    = 3
