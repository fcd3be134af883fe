# SPDX-License-Identifier: GPL-2.0
# arm64, as facts.  Read by make and by ci/arch.py: only "name = value" lines.

# Toolchain and kernel
kernel_arch  = arm64
kernel_image = arch/arm64/boot/Image
cross        = aarch64-linux-gnu-
deb_arch     = arm64
# Where this architecture's own tests are in the KVM selftests
kvm_tests    = aarch64

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
# since the device tree names no maintenance interrupt, and says nothing about it in between;
# only cases that name the mode.
modes        = vhe nvhe nogic
mode_vhe     =
proof_vhe    = (?s)vgic interrupt IRQ.*kvm \[1\]: VHE mode initialized successfully
mode_nvhe    = kvm-arm.mode=nvhe
proof_nvhe   = (?s)vgic interrupt IRQ.*kvm \[1\]: Hyp nVHE mode initialized successfully
mode_nogic   =
proof_nogic  = kvm \[1\]: IPA Size Limit: .*\n(?:(?!.*kvm \[1\]).*\n)*.*kvm \[1\]: VHE mode initialized successfully
without_nogic = /intc@8000000 interrupts

page_size    = 4096

# Time limits of cases are multiplied by this under emulation.
scale_tcg    = 3
