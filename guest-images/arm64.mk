# SPDX-License-Identifier: GPL-2.0
# arm64, as facts.  Read by make and by ci/facts/arch.py: only "name = value" lines.

# Toolchain and kernel
kernel_arch  = arm64
kernel_image = arch/arm64/boot/Image
cross        = aarch64-linux-gnu-
deb_arch     = arm64
# Where this architecture's own tests are, or were, in the KVM selftests
kvm_tests    = arm64 aarch64

# The machine, L1: with EL2, and a CPU that has VHE.
qemu         = qemu-system-aarch64
machine      = virt,virtualization=on,gic-version=3,mte=on
cpu_tcg      = max,pauth-impdef=on
cpu_kvm      = host
append       = console=ttyAMA0
append_tcg   =
append_lockstep =

# Modes: the boot parameters that ask for one, and what the kernel says on the
# console if it was obtained (a regular expression).  nogic: KVM has no use for the GIC,
# since the device tree names no maintenance interrupt, and says nothing about it in between.
# protected: pKVM; a hypervisor at EL2 makes the stage-2 mappings, also of VMs that are not
# protected.  Some modes are only for the cases that name them.
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

# Time limits of cases are multiplied by this under emulation.
scale_tcg    = 3
