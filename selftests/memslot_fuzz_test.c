// SPDX-License-Identifier: GPL-2.0
/*
 * Random memslot ioctls while vCPUs access the memory.  A model predicts KVM's answer to
 * each.  The sequence of ioctls is a function of the seed only.
 *
 * Environment: seed=N (1), ops=N (2000).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness.h"

#define FLAG		KVM_MEM_ABSENT_MAPPING_FAULT
#define VCPUS		2	/* access memory all the time; CHECKER is one more */
#define CHECKER		VCPUS
#define SLOTS		6
#define SPACES		2	/* address spaces; only x86 has a second one */
/* Where slots may be: units of UNIT_PAGES from TEST_GPA */
#define UNITS		16
#define UNIT_PAGES	4ul
#define PAGES		(UNITS * UNIT_PAGES)
#define MAGIC		0x5a5aull
#define CHECK_EVERY	400	/* ioctls */

static uint64_t parameter(const char *name, uint64_t missing)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 0) : missing;
}

/* --- the model --- */

static struct slot {
	uint64_t gpa, size, hva;
	uint32_t flags;
} slots[SPACES][SLOTS];	/* size zero: there is none */

/* One call of either ioctl. */
struct op {
	enum ioctl_version version;
	uint32_t space, slot, flags;
	uint64_t gpa, size, hva;
};

static int spaces;
static bool has_guest_memfd;	/* slots may have one; no such slot is ever created here */

/* All of these are EINVAL.  Their order does not matter, but KVM checks overlap after them. */
static bool is_invalid(const struct op *op)
{
	const uint32_t memfd = has_guest_memfd && op->version == V2 ? KVM_MEM_GUEST_MEMFD : 0;
	const uint32_t known = KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY | FLAG | memfd;
	const uint64_t offset = getpagesize() - 1;

	return (op->flags & ~known) ||
	       ((op->flags & FLAG) && (op->flags & KVM_MEM_READONLY)) ||
	       ((op->flags & memfd) && (op->flags & (KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY))) ||
	       (op->size & offset) || (op->gpa & offset) || (op->hva & offset) ||
	       op->space >= spaces;
}

static bool overlaps(const struct op *op)
{
	struct slot *s = slots[op->space];
	int i;

	for (i = 0; i < SLOTS; i++)
		if (i != op->slot && s[i].size && op->gpa < s[i].gpa + s[i].size && s[i].gpa < op->gpa + op->size)
			return true;
	return false;
}

/* Predicts KVM's return, zero or a negative errno; if zero, also updates the model. */
static int predict(const struct op *op)
{
	struct slot *s = &slots[op->space % SPACES][op->slot];
	struct slot new = { op->gpa, op->size, op->hva, op->flags };

	if (is_invalid(op))
		return -EINVAL;
	if (!s->size && !op->size)
		return -EINVAL;
	if (s->size && op->size) {
		if (op->size != s->size || op->hva != s->hva ||
		    ((op->flags ^ s->flags) & (KVM_MEM_READONLY | KVM_MEM_GUEST_MEMFD)))
			return -EINVAL;
		if (op->gpa == s->gpa) {
			s->flags = op->flags;
			return 0;
		}
	}
	if (op->size && overlaps(op))
		return -EEXIST;
	if (op->size && (op->flags & KVM_MEM_GUEST_MEMFD))
		return -EBADF;
	*s = new;
	return 0;
}

/* --- random ioctls --- */

static uint64_t random_state;

static uint64_t pick(uint64_t n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (random_state >> 11) % n;
}

static uint32_t random_flags(void)
{
	uint32_t flags = pick(16);	/* all four that exist */

	if (!pick(8))
		flags |= 1u << pick(32);
	return flags & ~(pick(2) ? KVM_MEM_GUEST_MEMFD : 0) & ~(pick(2) ? KVM_MEM_READONLY : 0);
}

static struct op random_op(struct test_vm *t)
{
	struct op op = {
		.version = pick(2) ? V1 : V2,
		.space = pick(16) ? 0 : pick(SPACES + 1),
		.slot = pick(SLOTS),
		.flags = random_flags(),
		.gpa = TEST_GPA + pick(UNITS) * UNIT_PAGES * t->page_size,
		.size = pick(4) * UNIT_PAGES * t->page_size,
	};
	struct slot *s = &slots[op.space % SPACES][op.slot];

	op.hva = (uintptr_t)t->hva + pick(UNITS - 4) * UNIT_PAGES * t->page_size;
	/* Mostly a change that can succeed */
	if (s->size && op.size && pick(4)) {
		op.size = s->size;
		op.hva = s->hva;
		if (pick(4))
			op.gpa = s->gpa;
	}
	if (!pick(16))
		*(uint64_t *[]){ &op.gpa, &op.size, &op.hva }[pick(3)] += 1 + pick(t->page_size - 1);
	return op;
}

/* Plain ioctl(): the library would query a capability of /dev/kvm each time. */
static int call(struct test_vm *t, const struct op *op)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = op->space << 16 | (TEST_SLOT + op->slot), .flags = op->flags,
		.guest_phys_addr = op->gpa, .memory_size = op->size, .userspace_addr = op->hva,
		.guest_memfd = -1,
	};

	/* The first version's structure is the head of the second's. */
	return ioctl(t->vm->fd, op->version == V1 ? KVM_SET_USER_MEMORY_REGION : KVM_SET_USER_MEMORY_REGION2,
		     &region) ? -errno : 0;
}

/* --- vCPUs that access it all --- */

static volatile bool stop;

struct accessor {
	struct test_vm *t;
	int vcpu;
	pthread_t thread;
	pthread_mutex_t lock;	/* held during an access */
	char *known;		/* the accessed page, if it is known for certain */
	uint64_t random, accesses, exits;
};

static void check_exit(struct accessor *a, struct kvm_run *run, int error)
{
	struct test_vm *t = a->t;
	size_t page = (run->memory_fault.gpa - TEST_GPA) / t->page_size;

	check_memory_fault(t, a->vcpu, error, page);
	TEST_ASSERT(page < PAGES, "gpa 0x%llx was not accessed", run->memory_fault.gpa);
	/* The slot's memory may have moved since: populate all of it. */
	TEST_ASSERT(!madvise(a->known ?: t->hva, (a->known ? 1 : PAGES) * t->page_size, MADV_POPULATE_WRITE),
		    "madvise() should work");
	a->exits++;
}

static bool in_window(struct kvm_run *run)
{
	return run->exit_reason == KVM_EXIT_MMIO && run->mmio.phys_addr >= TEST_GPA &&
	       run->mmio.phys_addr < TEST_GPA + PAGES * getpagesize();
}

/* The value read where there is no memory; no page has it. */
#define NO_MEMORY	(MAGIC << 16 | 0xffff)

/* One access; writes to no memory are lost. */
static uint64_t run_access(struct accessor *a)
{
	struct kvm_vcpu *vcpu = a->t->vcpus[a->vcpu];
	uint64_t magic = NO_MEMORY;
	int error;

	for (;;) {
		error = run_vcpu(vcpu);
		if (error)
			check_exit(a, vcpu->run, error);
		else if (!in_window(vcpu->run))
			return completion(a->t, a->vcpu);
		else if (!vcpu->run->mmio.is_write)
			memcpy(vcpu->run->mmio.data, &magic, sizeof(magic));
	}
}

static uint64_t guest_write(uint64_t gva)
{
	WRITE_ONCE(*(uint64_t *)(gva + 8), gva);
	return MAGIC << 16;
}

static void *access_all(void *arg)
{
	struct accessor *a = arg;
	uint64_t value;

	while (!stop) {
		a->random = a->random * 6364136223846793005ull + 1442695040888963407ull;
		pthread_mutex_lock(&a->lock);
		if (a->random >> 63)
			request(a->t, a->vcpu, ACCESS_READ, (a->random >> 40) % PAGES * a->t->page_size);
		else
			request_call(a->t, a->vcpu, guest_write, (a->random >> 40) % PAGES * a->t->page_size);
		value = run_access(a);
		TEST_ASSERT(value >> 16 == MAGIC, "the guest should read one of the pages, not 0x%lx", value);
		a->accesses++;
		pthread_mutex_unlock(&a->lock);
		/*
		 * An accepted ioctl waits for kernel workers.  Two threads that never
		 * sleep would leave them little of two CPUs.
		 */
		usleep((a->random >> 20) % 8192);
	}
	return NULL;
}

/* --- the model against a vCPU's accesses --- */

static const struct slot *find_slot(uint64_t gpa)
{
	int i;

	for (i = 0; i < SLOTS; i++)
		if (gpa >= slots[0][i].gpa && gpa < slots[0][i].gpa + slots[0][i].size)
			return &slots[0][i];
	return NULL;
}

/* One access to an absent page: it exits if the slot has the flag, then finds its page. */
static void check_access(struct accessor *a, size_t page)
{
	const struct slot *s = find_slot(page_gpa(a->t, page));
	uint64_t value, want = NO_MEMORY, exits = a->exits;

	if (s) {
		a->known = (char *)(s->hva + page_gpa(a->t, page) - s->gpa);
		want = MAGIC << 16 | (a->known - a->t->hva) / a->t->page_size;
		TEST_ASSERT(!madvise(a->known, a->t->page_size, MADV_DONTNEED), "madvise() should work");
	}
	request(a->t, a->vcpu, ACCESS_READ, page * a->t->page_size);
	value = run_access(a);
	TEST_ASSERT(value == want, "seed %lu: gpa 0x%lx reads as 0x%lx instead of 0x%lx", parameter("seed", 1),
		    page_gpa(a->t, page), value, want);
	TEST_ASSERT(a->exits - exits == (s && s->flags & FLAG), "seed %lu: gpa 0x%lx exits %lu times, flags 0x%x",
		    parameter("seed", 1), page_gpa(a->t, page), a->exits - exits, s ? s->flags : 0);
}

/*
 * Check one page in each unit, from @first on, while nobody else accesses memory.  Only
 * this thread runs the vCPU: KVM waits for RCU when another thread takes it over.
 */
static void check_memory(struct accessor *a, size_t first, size_t units)
{
	size_t unit;
	int i;

	for (i = 0; i < VCPUS; i++)
		pthread_mutex_lock(&a[i].lock);
	for (unit = 0; unit < units; unit++)
		check_access(&a[CHECKER], (first + unit * UNIT_PAGES) % PAGES);
	for (i = 0; i < VCPUS; i++)
		pthread_mutex_unlock(&a[i].lock);
}

/* Let each vCPU complete an access, so that ioctls do not starve them. */
static void wait_for_accesses(struct accessor *a)
{
	uint64_t before;
	int i;

	for (i = 0; i < VCPUS; i++)
		for (before = a[i].accesses; READ_ONCE(a[i].accesses) == before;)
			usleep(100);
}

/* --- */

static void fuzz(struct test_vm *t, uint64_t ops, struct accessor *a)
{
	uint64_t i, accepted = 0;
	struct op op;
	int want, r;

	for (i = 0; i < ops; i++) {
		op = random_op(t);
		want = predict(&op);
		r = call(t, &op);
		TEST_ASSERT(r == want, "seed %lu, ioctl %lu: version %d, space %u, slot %u, flags 0x%x, gpa 0x%lx, "
			    "size 0x%lx, hva 0x%lx: should return %d, not %d", parameter("seed", 1), i,
			    op.version + 1, op.space, op.slot, op.flags, op.gpa, op.size, op.hva, want, r);
		accepted += !r;
		if (!pick(8))
			madvise(t->hva, PAGES * t->page_size, MADV_DONTNEED);
		/* Now and then, check a changed slot at once; rarely, check everything. */
		if (!r && op.size && !op.space && !pick(4))
			check_memory(a, (op.gpa - TEST_GPA) / t->page_size, 1);
		if (i % CHECK_EVERY == CHECK_EVERY - 1 || i == ops - 1) {
			wait_for_accesses(a);
			check_memory(a, i / CHECK_EVERY % UNIT_PAGES, UNITS);
		}
		if (i % 20000 == 19999 || i == ops - 1)
			printf("%lu ioctls, %lu accepted, accesses %lu + %lu, exits %lu + %lu\n", i + 1, accepted,
			       a[0].accesses, a[1].accesses, a[0].exits, a[1].exits);
	}
	TEST_ASSERT(accepted && accepted < ops, "some should be accepted, not %lu of %lu", accepted, ops);
	TEST_ASSERT(a[CHECKER].exits, "an absent page of a flagged slot should have been looked at");
}

CASE(fuzz_memslots)
{
	struct accessor accessors[VCPUS + 1] = {};
	struct test_vm t;
	int i;

	REQUIRE_FLAG();
	setvbuf(stdout, NULL, _IOLBF, 0);
	spaces = kvm_check_cap(KVM_CAP_MULTI_ADDRESS_SPACE) ?: 1;
	random_state = parameter("seed", 1) * 0x9e3779b97f4a7c15ull | 1;
	t = test_vm_create(VCPUS + 1, VM_MEM_SRC_SHMEM, PAGES, 0);
	has_guest_memfd = vm_check_cap(t.vm, KVM_CAP_GUEST_MEMFD);
	accessors[CHECKER] = (struct accessor){ .t = &t, .vcpu = CHECKER };
	for (i = 0; i < PAGES; i++)
		*(uint64_t *)page_hva(&t, i) = MAGIC << 16 | i;
	/* The fuzzer's first slot is the one that came with the VM. */
	slots[0][0] = (struct slot){ TEST_GPA, PAGES * t.page_size, (uintptr_t)t.hva, 0 };
	for (i = 0; i < VCPUS; i++) {
		accessors[i] = (struct accessor){ .t = &t, .vcpu = i, .random = parameter("seed", 1) + i,
						.lock = PTHREAD_MUTEX_INITIALIZER };
		TEST_ASSERT(!pthread_create(&accessors[i].thread, NULL, access_all, &accessors[i]), "pthread_create() should work");
	}
	fuzz(&t, parameter("ops", 2000), accessors);
	stop = true;
	for (i = 0; i < VCPUS; i++)
		pthread_join(accessors[i].thread, NULL);
	/* The library would delete slots that no longer exist. */
	_exit(0);
}
