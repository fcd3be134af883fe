// SPDX-License-Identifier: GPL-2.0
/*
 * Each allocation and each copy that can fail does so once, by fail-nth of the kernel's
 * fault injection.  KVM_RUN annotates each EFAULT, memslot ioctls leave no half-made
 * slot, and nothing leaks: kmemleak checks that after the last case.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness.h"

#define FLAG	KVM_MEM_ABSENT_MAPPING_FAULT
#define DEBUGFS	"/sys/kernel/debug/"

/* No stack trace for each failure; allocations that may sleep fail too. */
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

/* From here on, let the nth chance to fail be taken. */
static void arm(int nth)
{
	char text[16];

	if (fail_nth < 0)
		fail_nth = open("/proc/thread-self/fail-nth", O_RDWR);
	snprintf(text, sizeof(text), "%d", nth);
	TEST_ASSERT(pwrite(fail_nth, text, strlen(text), 0) == strlen(text), "fail-nth should be writable");
}

/*
 * Returns whether the failure happened.  If not, the copy of this read, or of writing
 * zero, may take the chance.
 */
static bool disarm(void)
{
	char text[16] = {};
	bool taken = pread(fail_nth, text, sizeof(text) - 1, 0) > 0 && !atoi(text);

	while (pwrite(fail_nth, "0", 1, 0) != 1)
		TEST_ASSERT(errno == EFAULT || errno == ENOMEM, "fail-nth should be writable, errno %d", errno);
	return taken;
}

/* One access to an absent page, by a vCPU that has never run. */
struct injected_run {
	struct test_vm t;
	int error;
	bool taken;	/* a failure was injected */
	bool annotated;	/* and so the access failed, annotated */
};

#define PAGE	5

/* Check KVM_RUN's result of the first try, with @flags on the slot. */
static void check_run(struct injected_run *r, uint32_t flags)
{
	struct kvm_run *run = r->t.vcpus[0]->run;
	bool in_slot = run->memory_fault.gpa >= TEST_GPA;

	if (r->error == -EFAULT) {
		/* The guest's code and page tables are elsewhere. */
		check_memory_fault(&r->t, 0, r->error, in_slot ? PAGE : (run->memory_fault.gpa - TEST_GPA) / getpagesize());
		TEST_ASSERT(r->taken || (flags && in_slot), "nothing has failed, but KVM_RUN does");
		r->annotated = r->taken && in_slot;
	} else if (r->error) {
		TEST_ASSERT(r->taken && (r->error == -ENOMEM || r->error == -EAGAIN), "KVM_RUN returns %d", r->error);
	} else {
		TEST_ASSERT(!flags, "the access should not complete");
		TEST_ASSERT(completion(&r->t, 0) == TEST_GVA + PAGE * r->t.page_size, "the guest should have written");
	}
}

/* Without injection, the access works as usual. */
static void repair_run(struct injected_run *r, uint32_t flags)
{
	if (flags) {
		run_to_memory_fault(&r->t, 0, PAGE);
		TEST_ASSERT(!populate(&r->t, page_hva(&r->t, PAGE)), "populating should work");
	}
	if (r->error)
		TEST_ASSERT(run_to_completion(&r->t, 0) == TEST_GVA + PAGE * r->t.page_size,
			    "the guest should have written");
}

/* Fail the access in each place, on a new VM each.  Returns the number of annotated exits. */
static int inject_into_run(uint32_t flags)
{
	struct injected_run r = { .taken = true };
	int nth, annotated = 0;

	for (nth = 1; r.taken; nth++) {
		TEST_ASSERT(nth < 1000, "there is no end of failures");
		r = (struct injected_run){ .t = test_vm_create(1, VM_MEM_SRC_ANONYMOUS, 16, flags) };
		request(&r.t, 0, ACCESS_WRITE, PAGE * r.t.page_size);
		arm(nth);
		r.error = run_vcpu(r.t.vcpus[0]);
		r.taken = disarm();
		check_run(&r, flags);
		repair_run(&r, flags);
		annotated += r.annotated;
		test_vm_free(&r.t);
	}
	printf("flags 0x%x: %d failures, after %d of them an exit\n", flags, nth - 2, annotated);
	TEST_ASSERT(nth > 3, "more should have failed than %d times", nth - 2);
	return annotated;
}

CASE(inject_run)
{
	int annotated;

	REQUIRE_FLAG();
	enable_injection();
	inject_into_run(FLAG);
	annotated = inject_into_run(0);
	/* With asynchronous page faults KVM looks up twice, and only one lookup fails. */
	TEST_ASSERT(annotated || kvm_check_cap(KVM_CAP_ASYNC_PF), "memory that can't be had should be an exit");
}

#define SIZE	0x200000ul

struct slot {
	uint64_t gpa, size;
	uint32_t flags;
};

/* Plain ioctl(): the library would open /dev/kvm on the way, which would fail as well. */
static int set_slot(struct kvm_vm *vm, enum ioctl_version version, int slot, const struct slot *s, void *memory)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = slot, .flags = s->flags, .guest_phys_addr = s->gpa,
		.memory_size = s->size, .userspace_addr = (uintptr_t)memory,
	};

	/* The first version's structure is the head of the second's. */
	return ioctl(vm->fd, version == V1 ? KVM_SET_USER_MEMORY_REGION : KVM_SET_USER_MEMORY_REGION2,
		     &region) ? -errno : 0;
}

/* Whether an existing slot overlaps a new one there. */
static bool is_occupied(struct kvm_vm *vm, uint64_t gpa, void *memory)
{
	int r = set_slot(vm, V2, TEST_SLOT + 1, &(struct slot){ gpa, SIZE }, memory);

	TEST_ASSERT(!r || r == -EEXIST, "creating a slot returns %d", r);
	if (!r)
		TEST_ASSERT(!set_slot(vm, V2, TEST_SLOT + 1, &(struct slot){ gpa }, memory), "deleting should work");
	return r;
}

static bool has_log(struct kvm_vm *vm)
{
	static uint8_t bitmap[SIZE / 4096 / 8];
	struct kvm_dirty_log log = { .slot = TEST_SLOT, .dirty_bitmap = bitmap };
	int r = ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log) ? -errno : 0;

	TEST_ASSERT(!r || r == -ENOENT, "KVM_GET_DIRTY_LOG returns %d", r);
	return !r;
}

/*
 * Whether the flag is set, found without an access: a call that changes nothing allocates
 * nothing.  Its first chance to fail is the copy of the arguments.
 */
static bool is_flagged(struct kvm_vm *vm, enum ioctl_version version, const struct slot *s, void *memory)
{
	struct slot flagged = *s;
	int r;

	flagged.flags |= FLAG;
	arm(2);
	r = set_slot(vm, version, TEST_SLOT, &flagged, memory);
	disarm();
	TEST_ASSERT(!r || r == -ENOMEM, "setting the flag returns %d", r);
	return !r;
}

/* A failed call has changed nothing. */
static void check_slot(struct kvm_vm *vm, enum ioctl_version version, const struct slot *is,
		       const struct slot *failed, void *memory)
{
	TEST_ASSERT(is_occupied(vm, is->gpa, memory) == !!is->size, "the slot should be as it was");
	if (failed->gpa != is->gpa)
		TEST_ASSERT(!is_occupied(vm, failed->gpa, memory), "the slot should not have moved");
	TEST_ASSERT(has_log(vm) == !!(is->flags & KVM_MEM_LOG_DIRTY_PAGES), "the dirty log should be as it was");
	if (is->size)
		TEST_ASSERT(is_flagged(vm, version, is, memory) == !!(is->flags & FLAG), "the flag should be as it was");
}

/* Bring the slot from one state to another, failing in each place; then without injection. */
static int inject_into_slot(enum ioctl_version version, struct slot from, struct slot to)
{
	struct kvm_vm *vm = vm_create_barebones();
	void *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int nth, r, injected = 0;
	bool taken = true;

	for (nth = 1; taken; nth++) {
		TEST_ASSERT(nth < 1000, "there is no end of failures");
		if (from.size)
			TEST_ASSERT(!set_slot(vm, version, TEST_SLOT, &from, memory), "setting up should work");
		arm(nth);
		r = set_slot(vm, version, TEST_SLOT, &to, memory);
		taken = disarm();
		injected += !!r;
		TEST_ASSERT(!r || (taken && (r == -ENOMEM || r == -EFAULT)), "the ioctl returns %d", r);
		if (r) {
			check_slot(vm, version, &from, &to, memory);
			TEST_ASSERT(!set_slot(vm, version, TEST_SLOT, &to, memory), "the same call should work");
		}
		if (to.size)
			TEST_ASSERT(!set_slot(vm, version, TEST_SLOT, &(struct slot){ to.gpa }, memory), "deleting should work");
	}
	munmap(memory, SIZE);
	kvm_vm_free(vm);
	return injected;
}

CASE(inject_slot)
{
	const uint32_t log = KVM_MEM_LOG_DIRTY_PAGES;
	const struct { const char *name; struct slot from, to; } changes[] = {
		{ "create", { TEST_GPA }, { TEST_GPA, SIZE, FLAG } },
		{ "create logged", { TEST_GPA }, { TEST_GPA, SIZE, FLAG | log } },
		{ "set", { TEST_GPA, SIZE }, { TEST_GPA, SIZE, FLAG } },
		{ "clear", { TEST_GPA, SIZE, FLAG }, { TEST_GPA, SIZE } },
		{ "log", { TEST_GPA, SIZE, FLAG }, { TEST_GPA, SIZE, FLAG | log } },
		{ "move", { TEST_GPA, SIZE, FLAG }, { TEST_GPA + SIZE, SIZE, FLAG } },
		{ "delete", { TEST_GPA, SIZE, FLAG }, { TEST_GPA } },
	};
	enum ioctl_version version;
	int i, injected;

	REQUIRE_FLAG();
	enable_injection();
	for (version = V1; version <= V2; version++) {
		for (i = 0; i < ARRAY_SIZE(changes); i++) {
			injected = inject_into_slot(version, changes[i].from, changes[i].to);
			printf("version %d: %s fails in %d places\n", version + 1, changes[i].name, injected);
			TEST_ASSERT(injected > 1, "more than the copy of the arguments should have failed");
		}
	}
}
