// SPDX-License-Identifier: GPL-2.0
/*
 * The interface of KVM_MEM_ABSENT_MAPPING_FAULT: when it exists, which ioctls take it,
 * in which combinations, and that a live memslot may gain and lose it.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness.h"

#define FLAG	KVM_MEM_ABSENT_MAPPING_FAULT
#define SIZE	0x200000ul

/* Returns zero or a negative errno. */
static int set_slot(struct kvm_vm *vm, enum ioctl_version version, uint32_t flags,
		    uint64_t gpa, uint64_t size)
{
	static char *memory;
	int r;

	if (!memory)
		memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(memory != MAP_FAILED, "mmap() should work");

	if (version == V1)
		r = __vm_set_user_memory_region(vm, TEST_SLOT, flags, gpa, size, memory);
	else
		r = __vm_set_user_memory_region2(vm, TEST_SLOT, flags, gpa, size, memory, 0, 0);
	return r ? -errno : 0;
}

static void expect(struct kvm_vm *vm, enum ioctl_version version, uint32_t flags, int want)
{
	int r = set_slot(vm, version, flags, TEST_GPA, SIZE);

	TEST_ASSERT(r == want, "KVM_SET_USER_MEMORY_REGION%s with flags 0x%x should return %d, not %d",
		    version == V2 ? "2" : "", flags, want, r);
}

/* Runs on the base as well: without the capability, the flag must be unknown. */
CASE(flag_matches_capability)
{
	struct kvm_vm *vm = vm_create_barebones();
	int want = kvm_has_cap(KVM_CAP_MEMORY_FAULT_NOWAIT) ? 0 : -EINVAL;

	expect(vm, V1, FLAG, want);
	set_slot(vm, V1, 0, TEST_GPA, 0);
	expect(vm, V2, FLAG, want);
	kvm_vm_free(vm);
}

CASE(capabilities)
{
	struct kvm_enable_cap enable = { .cap = KVM_CAP_MEMORY_FAULT_NOWAIT };
	struct kvm_vm *vm;

	REQUIRE_FLAG();
	vm = vm_create_barebones();
	TEST_ASSERT(kvm_check_cap(KVM_CAP_MEMORY_FAULT_NOWAIT) == 1, "/dev/kvm should report 1");
	TEST_ASSERT(vm_check_cap(vm, KVM_CAP_MEMORY_FAULT_NOWAIT) == 1, "a VM should report 1");
	TEST_ASSERT(vm_check_cap(vm, KVM_CAP_MEMORY_FAULT_INFO) == 1,
		    "the exit should be advertised along with the flag");
	TEST_ASSERT(__vm_ioctl(vm, KVM_ENABLE_CAP, &enable) == -1 && errno == EINVAL,
		    "KVM_ENABLE_CAP should fail with EINVAL: the capability only informs");
	kvm_vm_free(vm);
}

/* Each on a new slot, through both ioctls. */
CASE(flag_combinations)
{
	static const struct { uint32_t flags; int want; } table[] = {
		{ FLAG, 0 },
		{ FLAG | KVM_MEM_LOG_DIRTY_PAGES, 0 },
		{ FLAG | KVM_MEM_READONLY, -EINVAL },
		{ FLAG | KVM_MEM_READONLY | KVM_MEM_LOG_DIRTY_PAGES, -EINVAL },
		{ FLAG | FLAG << 1, -EINVAL },
		{ FLAG | 1u << 31, -EINVAL },
		{ FLAG << 1, -EINVAL },
		/* Without the flag, the excluded combination must still work. */
		{ KVM_MEM_READONLY, 0 },
	};
	enum ioctl_version version;
	struct kvm_vm *vm;
	size_t i;

	REQUIRE_FLAG();
	vm = vm_create_barebones();
	for (version = V1; version <= V2; version++) {
		for (i = 0; i < ARRAY_SIZE(table); i++) {
			expect(vm, version, table[i].flags, table[i].want);
			if (!table[i].want)
				TEST_ASSERT(!set_slot(vm, version, 0, TEST_GPA, 0),
					    "deleting the slot should work");
		}
	}
	kvm_vm_free(vm);
}

/* A READONLY slot cannot gain the flag either. */
static void expect_readonly_refuses(struct kvm_vm *vm, enum ioctl_version version)
{
	TEST_ASSERT(!set_slot(vm, version, 0, TEST_GPA, 0), "deleting the slot should work");
	expect(vm, version, KVM_MEM_READONLY, 0);
	expect(vm, version, KVM_MEM_READONLY | FLAG, -EINVAL);
	TEST_ASSERT(!set_slot(vm, version, 0, TEST_GPA, 0), "deleting the slot should work");
}

/* On a live slot: every step from one allowed value to another, and the refusals. */
CASE(flag_changes)
{
	static const uint32_t values[] = {
		0, FLAG, KVM_MEM_LOG_DIRTY_PAGES, FLAG | KVM_MEM_LOG_DIRTY_PAGES,
	};
	enum ioctl_version version;
	struct kvm_vm *vm;
	size_t from, to;

	REQUIRE_FLAG();
	vm = vm_create_barebones();
	for (version = V1; version <= V2; version++) {
		for (from = 0; from < ARRAY_SIZE(values); from++) {
			for (to = 0; to < ARRAY_SIZE(values); to++) {
				expect(vm, version, values[from], 0);
				expect(vm, version, values[to], 0);
			}
			expect(vm, version, values[from] | KVM_MEM_READONLY, -EINVAL);
		}
		expect_readonly_refuses(vm, version);
	}
	kvm_vm_free(vm);
}

/* A flagged slot can be moved, with the flag or losing it, and be deleted. */
CASE(flag_move_delete)
{
	struct kvm_vm *vm;

	REQUIRE_FLAG();
	vm = vm_create_barebones();
	TEST_ASSERT(!set_slot(vm, V2, FLAG, TEST_GPA, SIZE), "creating should work");
	TEST_ASSERT(!set_slot(vm, V2, FLAG, TEST_GPA + SIZE, SIZE), "moving should work");
	TEST_ASSERT(!set_slot(vm, V1, 0, TEST_GPA, SIZE), "moving and clearing should work");
	TEST_ASSERT(!set_slot(vm, V1, FLAG, TEST_GPA + SIZE, SIZE), "moving and setting should work");
	TEST_ASSERT(!set_slot(vm, V2, 0, TEST_GPA + SIZE, 0), "deleting should work");
	kvm_vm_free(vm);
}

#ifdef __x86_64__
/* Slots with a guest_memfd take the flag at creation, and it never changes. */
CASE(flag_guest_memfd)
{
	struct kvm_vm *vm;
	int memfd;

	REQUIRE_FLAG();
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM));
	vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	memfd = vm_create_guest_memfd(vm, SIZE, 0);

	TEST_ASSERT(!__vm_set_user_memory_region2(vm, TEST_SLOT, FLAG | KVM_MEM_GUEST_MEMFD,
						  TEST_GPA, SIZE, NULL, memfd, 0),
		    "creating should work, errno %d", errno);
	TEST_ASSERT(__vm_set_user_memory_region2(vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD,
						 TEST_GPA, SIZE, NULL, memfd, 0) == -1 &&
		    errno == EINVAL, "clearing the flag should fail with EINVAL, errno %d", errno);
	/* V1 has no field for the descriptor, which reads as 0: make fd 0 a valid guest_memfd. */
	TEST_ASSERT(dup2(vm_create_guest_memfd(vm, SIZE, 0), 0) == 0, "dup2() should work");
	TEST_ASSERT(__vm_set_user_memory_region(vm, TEST_SLOT + 1, FLAG | KVM_MEM_GUEST_MEMFD,
						TEST_GPA + SIZE, SIZE, NULL) == -1 &&
		    errno == EINVAL, "the v1 ioctl should refuse guest_memfd, errno %d", errno);
	close(memfd);
	kvm_vm_free(vm);
}
#endif

/* Only headers with protected VMs define their type. */
#ifdef KVM_VM_TYPE_ARM_PROTECTED
/* KVM pins a protected VM's memory on access: it has no such slots, and refuses them. */
CASE(flag_protected_vm)
{
	int kvm = open_kvm_dev_path_or_exit();
	/* The library cannot create that type; the code below uses only the fd. */
	struct kvm_vm vm = { .fd = ioctl(kvm, KVM_CREATE_VM, KVM_VM_TYPE_ARM_PROTECTED) };

	REQUIRE_FLAG();
	TEST_ASSERT(vm.fd >= 0, "creating a protected VM should work, errno %d", errno);
	TEST_ASSERT(ioctl(vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_MEMORY_FAULT_NOWAIT) == 0,
		    "a protected VM should not have the capability");
	/* Neither at creation nor later */
	expect(&vm, V1, FLAG, -EPERM);
	expect(&vm, V2, FLAG, -EPERM);
	expect(&vm, V2, 0, 0);
	expect(&vm, V2, FLAG, -EPERM);
	expect(&vm, V1, FLAG, -EPERM);
	close(vm.fd);
	close(kvm);
}
#endif
