// SPDX-License-Identifier: GPL-2.0
/*
 * Every allocation and every copy that can fail does, one at a time: fail-nth of the
 * kernel's fault injection.  KVM_RUN annotates each EFAULT, memslot ioctls leave no
 * half-made slot, and nothing leaks, which kmemleak says after the last case.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness.h"

#define FLAG	KVM_MEM_ABSENT_MAPPING_FAULT
#define PAGES	256
#define DEBUGFS	"/sys/kernel/debug/"

/* Without a stack trace for each, and also where the allocation may sleep. */
static void enable_injection(void)
{
	write_file(DEBUGFS "failslab/verbose", "0");
	write_file(DEBUGFS "fail_page_alloc/verbose", "0");
	write_file(DEBUGFS "fail_usercopy/verbose", "0");
	write_file(DEBUGFS "failslab/ignore-gfp-wait", "N");
	write_file(DEBUGFS "fail_page_alloc/ignore-gfp-wait", "N");
	write_file(DEBUGFS "fail_page_alloc/min-order", "0");
}

static int fail_nth = -1;

/* Have the nth chance to fail from here on be taken. */
static void arm(int nth)
{
	char text[16];

	if (fail_nth < 0)
		fail_nth = open("/proc/thread-self/fail-nth", O_RDWR);
	snprintf(text, sizeof(text), "%d", nth);
	TEST_ASSERT(pwrite(fail_nth, text, strlen(text), 0) == strlen(text), "fail-nth should be writable");
}

/*
 * Returns whether it came to that.  If not, the chance may be the copy that this read
 * makes, or one of writing zero.
 */
static bool disarm(void)
{
	char text[16] = {};
	bool taken = pread(fail_nth, text, sizeof(text) - 1, 0) > 0 && !atoi(text);

	while (pwrite(fail_nth, "0", 1, 0) != 1)
		TEST_ASSERT(errno == EFAULT || errno == ENOMEM, "fail-nth should be writable, errno %d", errno);
	return taken;
}

static void check_run_error(struct test_vm *t, int error, size_t page)
{
	if (error == -EFAULT)
		check_memory_fault(t, 0, error, page);
	else
		TEST_ASSERT(!error || error == -ENOMEM || error == -EAGAIN, "KVM_RUN returns %d", error);
}

/* An access to an absent page, failing in each place; then undisturbed. */
static int inject_into_run(uint32_t flags)
{
	int nth, error, injected = 0;
	struct test_vm t;
	bool taken = true;

	t = test_vm_create(1, VM_MEM_SRC_SHMEM, PAGES, flags);
	fill_page_cache(&t);
	if (flags)
		uffd_register(&t, UFFDIO_REGISTER_MODE_MINOR);
	for (nth = 1; taken; nth++) {
		TEST_ASSERT(nth < PAGES, "there is no end of failures");
		/* Without the flag, a write: a read would map the next pages too. */
		request(&t, 0, ACCESS_WRITE, nth * t.page_size);
		arm(nth);
		error = run_vcpu(t.vcpus[0]);
		taken = disarm();
		injected += taken;
		check_run_error(&t, error, nth);
		if (error && flags) {
			run_to_memory_fault(&t, 0, nth);
			resolve(&t, t.vcpus[0], -EFAULT);
		}
		if (error)
			access_completes(&t, ACCESS_WRITE, nth);
	}
	test_vm_free(&t);
	return injected;
}

CASE(inject_run)
{
	int flagged, unflagged;

	REQUIRE_FLAG();
	enable_injection();
	flagged = inject_into_run(FLAG);
	unflagged = inject_into_run(0);
	printf("%d failures under the flag, %d without\n", flagged, unflagged);
	TEST_ASSERT(flagged && unflagged, "something should have failed");
}

#define SIZE	0x200000ul

/* By ioctl() itself: the library opens /dev/kvm on the way, which would fail as well. */
static int set_slot(struct kvm_vm *vm, enum ioctl_version version, uint32_t flags, uint64_t size, void *memory)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = TEST_SLOT, .flags = flags, .guest_phys_addr = TEST_GPA,
		.memory_size = size, .userspace_addr = (uintptr_t)memory,
	};

	/* The first version's structure is the head of the second's. */
	return ioctl(vm->fd, version == V1 ? KVM_SET_USER_MEMORY_REGION : KVM_SET_USER_MEMORY_REGION2,
		     &region) ? -errno : 0;
}

/*
 * Bring the slot from one state to another, failing in each place.  What has failed has
 * changed nothing: the same call works afterwards, which it would not if half done.
 */
static int inject_into_slot(enum ioctl_version version, uint32_t flags, uint64_t size,
			    uint32_t before_flags, uint64_t before_size)
{
	struct kvm_vm *vm = vm_create_barebones();
	void *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int nth, r, injected = 0;
	bool taken = true;

	for (nth = 1; taken; nth++) {
		TEST_ASSERT(nth < PAGES, "there is no end of failures");
		if (before_size)
			TEST_ASSERT(!set_slot(vm, version, before_flags, before_size, memory), "setting up should work");
		arm(nth);
		r = set_slot(vm, version, flags, size, memory);
		taken = disarm();
		injected += taken;
		TEST_ASSERT(!r || (taken && (r == -ENOMEM || r == -EFAULT)), "the ioctl returns %d", r);
		if (r)
			TEST_ASSERT(!set_slot(vm, version, flags, size, memory), "the same call should work");
		if (size)
			TEST_ASSERT(!set_slot(vm, version, 0, 0, memory), "deleting should work");
	}
	munmap(memory, SIZE);
	kvm_vm_free(vm);
	return injected;
}

CASE(inject_slot)
{
	const uint32_t log = KVM_MEM_LOG_DIRTY_PAGES;
	enum ioctl_version version;

	REQUIRE_FLAG();
	enable_injection();
	for (version = V1; version <= V2; version++)
		printf("version %d: create %d, create logged %d, toggle %d, log %d, delete %d\n", version + 1,
		       inject_into_slot(version, FLAG, SIZE, 0, 0),
		       inject_into_slot(version, FLAG | log, SIZE, 0, 0),
		       inject_into_slot(version, FLAG, SIZE, 0, SIZE),
		       inject_into_slot(version, FLAG | log, SIZE, FLAG, SIZE),
		       inject_into_slot(version, 0, 0, FLAG, SIZE));
}
