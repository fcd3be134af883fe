// SPDX-License-Identifier: GPL-2.0
/*
 * What one more fault costs, by how it is delivered: the price of a vCPU's access to a
 * page that is absent, from the guest's instruction to the next one.
 *
 * The guest reads pages that it has never touched, in batches of two sizes.  A batch
 * costs a constant (the ucall at its end, the request at its start) plus the price of
 * its faults; the difference between batches of different size leaves the price.  Both
 * sizes are multiples of what two page-table pages map, so that each batch pays for
 * as many of those, and of the refills of L1's page allocator, per fault, as any other;
 * and they take turns in going first, so that a drift is no price.  Nothing is created,
 * printed or verified inside the timed part, timer ticks are, and the first batches are
 * not counted.
 *
 * Ticks are of the CPU's own counter (TSC, CNTVCT), icount's nanoseconds in its unit,
 * and an instruction is a nanosecond.  They mean instructions only under
 * QEMU's icount, and are otherwise nothing this program vouches for: it prints how
 * many ticks a loop of known length took, for the reader to check.
 *
 * One vCPU runs.  The VM has memory for two, so that "one userfaultfd for all vCPUs,
 * with a reader for each" and "one per vCPU" differ as they would in a VMM.
 *
 * Prints JSON lines to the file that BENCH_OUT names, or to stdout; results/README.md has
 * the format.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/userfaultfd.h>

#include "harness.h"

#define FLAG		KVM_MEM_ABSENT_MAPPING_FAULT
#define BLOCK		512	/* pages that one page-table page maps, if all are 4K */
#define SMALL		(2 * BLOCK)
#define LARGE		(6 * BLOCK)
#define ROUNDS		4
#define VCPUS		2
#define PAGES		(VCPUS * (1 + ROUNDS) * (SMALL + LARGE))

/* A way to deliver and resolve faults: one row is one mode. */
static const struct mode {
	const char *name;
	enum vm_mem_backing_src_type backing;
	uint32_t flags;		/* of the memslot */
	int uffd_mode;		/* 0: memory is mapped in advance */
	int uffds;		/* that cover the memory of all vCPUs */
	int readers;		/* for each uffd */
	int planted;		/* instructions added to each exit, to be found again */
} modes[] = {
	{ "mapped",               VM_MEM_SRC_SHMEM,     0,    0, 0, 0 },
	{ "uffd_missing",         VM_MEM_SRC_ANONYMOUS, 0,    UFFDIO_REGISTER_MODE_MISSING, 1, VCPUS },
	{ "uffd_missing_sharded", VM_MEM_SRC_ANONYMOUS, 0,    UFFDIO_REGISTER_MODE_MISSING, VCPUS, 1 },
	{ "fast_missing",         VM_MEM_SRC_ANONYMOUS, FLAG, UFFDIO_REGISTER_MODE_MISSING, VCPUS, 1 },
	{ "uffd_minor",           VM_MEM_SRC_SHMEM,     0,    UFFDIO_REGISTER_MODE_MINOR, 1, VCPUS },
	{ "uffd_minor_sharded",   VM_MEM_SRC_SHMEM,     0,    UFFDIO_REGISTER_MODE_MINOR, VCPUS, 1 },
	{ "fast_minor",           VM_MEM_SRC_SHMEM,     FLAG, UFFDIO_REGISTER_MODE_MINOR, VCPUS, 1 },
	{ "fast_minor_planted",   VM_MEM_SRC_SHMEM,     FLAG, UFFDIO_REGISTER_MODE_MINOR, VCPUS, 1, 1000 },
};

#ifdef __x86_64__
static inline uint64_t ticks(void)
{
	uint32_t low, high;

	asm volatile("lfence; rdtsc" : "=a"(low), "=d"(high) :: "memory");
	return low | (uint64_t)high << 32;
}

/* Nobody tells a program the frequency of the TSC; icount makes it this. */
static uint64_t ticks_hz(void)
{
	return 1000000000;
}

static inline void two_instructions_times(uint64_t n)
{
	asm volatile("1: dec %0; jnz 1b" : "+r"(n));
}
#elif defined(__aarch64__)
static inline uint64_t ticks(void)
{
	uint64_t value;

	asm volatile("isb; mrs %0, cntvct_el0" : "=r"(value) :: "memory");
	return value;
}

static uint64_t ticks_hz(void)
{
	uint64_t value;

	asm volatile("mrs %0, cntfrq_el0" : "=r"(value));
	return value;
}

static inline void two_instructions_times(uint64_t n)
{
	asm volatile("1: subs %0, %0, #1; b.ne 1b" : "+r"(n) :: "cc");
}
#else
#error "which counter counts instructions under icount here?"
#endif

static FILE *out;

/* The shortest of some runs of a known length: one that no timer tick fell into. */
static void print_calibration(const struct mode *m)
{
	const uint64_t n = 500000;
	uint64_t start, took, least = UINT64_MAX;
	int i;

	for (i = 0; i < 10; i++) {
		start = ticks();
		two_instructions_times(n);
		took = ticks() - start;
		if (took < least)
			least = took;
	}
	fprintf(out, "{\"mode\": \"%s\", \"calibration\": %" PRIu64 ", \"ticks\": %" PRIu64
		", \"hz\": %" PRIu64 "}\n", m->name, 2 * n, least, ticks_hz());
}

static uint64_t messages;

/*
 * A reader that blocks in read(): one system call less per fault than one that polls.
 * Several of them on one userfaultfd are all woken by each fault.  Ends with the process.
 */
static void *blocking_reader(void *arg)
{
	struct test_vm *t = arg;
	struct uffd_msg msg;
	int r;

	for (;;) {
		TEST_ASSERT(read(t->uffd, &msg, sizeof(msg)) == sizeof(msg), "read() should work");
		__atomic_add_fetch(&messages, 1, __ATOMIC_RELAXED);
		r = provide(t, (char *)msg.arg.pagefault.address, true);
		/* As in resolve(): TEST_ASSERT() would find the words each time. */
		if (r)
			TEST_FAIL("providing a page should work, not fail with %s", strerror(-r));
	}
	return NULL;
}

/* Register each vCPU's share, or all at once, and start the readers. */
static void start_userfaultfd(const struct mode *m, struct test_vm *t, struct test_vm shares[])
{
	pthread_t thread;
	int i, j;

	for (i = 0; i < m->uffds; i++) {
		shares[i] = *t;
		shares[i].pages = t->pages / m->uffds;
		shares[i].hva = t->hva + i * shares[i].pages * t->page_size;
		uffd_register(&shares[i], m->uffd_mode);
		TEST_ASSERT(!fcntl(shares[i].uffd, F_SETFL, 0), "fcntl() should work");
		write_page(shares[i].source, TEST_GPA);
		for (j = 0; j < m->readers; j++)
			TEST_ASSERT(!pthread_create(&thread, NULL, blocking_reader, &shares[i]),
				    "pthread_create() should work");
	}
}

/* Pages that the guest reads in one go, and what came of it. */
struct batch {
	size_t first, count;
	uint64_t ticks, exits, messages;
	uint64_t guest_exits;	/* to KVM, for whatever reason */
};

static void run_timed(const struct mode *m, struct test_vm *t, struct test_vm *share, struct batch *b)
{
	struct kvm_vcpu *vcpu = t->vcpus[0];
	uint64_t start, messages_before = messages;
	int r;

	request_pages(t, 0, ACCESS_READ, b->first * t->page_size, b->count);
	b->guest_exits = vcpu_exits(vcpu);
	start = ticks();
	while ((r = __vcpu_run(vcpu)) && errno == EFAULT &&
	       vcpu->run->exit_reason == KVM_EXIT_MEMORY_FAULT) {
		if (m->planted)
			two_instructions_times(m->planted / 2);
		resolve(share, vcpu, -EFAULT);
		b->exits++;
	}
	b->ticks = ticks() - start;
	b->messages = messages - messages_before;
	TEST_ASSERT(!r, "KVM_RUN should succeed, errno %d, exit reason %u", errno,
		    vcpu->run->exit_reason);
	b->guest_exits = vcpu_exits(vcpu) - b->guest_exits;
}

/* The guest has read what each page was filled with, and each fault went the right way. */
static void verify(const struct mode *m, struct test_vm *t, const struct batch *b)
{
	bool own_contents = m->uffd_mode != UFFDIO_REGISTER_MODE_MISSING;
	uint64_t want = 0;
	struct ucall uc;
	size_t i;

	for (i = 0; i < b->count; i++)
		want += fetch_code(own_contents ? page_gpa(t, b->first + i) : TEST_GPA);
	TEST_ASSERT(get_ucall(t->vcpus[0], &uc) == UCALL_SYNC && uc.args[1] == want,
		    "the guest should read a sum of 0x%lx, not 0x%lx", want, uc.args[1]);
	TEST_ASSERT(b->guest_exits >= b->count, "%zu pages took %lu exits to KVM: more than one at once was mapped",
		    b->count, b->guest_exits);
	TEST_ASSERT(b->exits == (m->flags ? b->count : 0), "%zu pages took %lu exits", b->count, b->exits);
	TEST_ASSERT(b->messages == (m->uffd_mode && !m->flags ? b->count : 0),
		    "%zu pages took %lu userfaultfd messages", b->count, b->messages);
}

static size_t run_batch(const struct mode *m, struct test_vm *t, struct test_vm *share,
			size_t first, size_t count, bool warm_up)
{
	struct batch b = { .first = first, .count = count };

	run_timed(m, t, share, &b);
	verify(m, t, &b);
	if (!warm_up)
		fprintf(out, "{\"mode\": \"%s\", \"pages\": %zu, \"exits\": %" PRIu64 ", \"messages\": %"
			PRIu64 ", \"planted\": %d, \"ticks\": %" PRIu64 "}\n", m->name, count,
			b.exits, b.messages, m->planted, b.ticks);
	return first + count;
}

static void run_mode(const struct mode *m)
{
	struct test_vm shares[VCPUS], t;
	size_t page = 0;
	int i;

	if (m->flags)
		REQUIRE_FLAG();
	t = test_vm_create(VCPUS, m->backing, PAGES, m->flags);
	if (t.alias)
		fill_page_cache(&t);
	if (!m->uffd_mode)
		TEST_ASSERT(!madvise(t.hva, t.pages * t.page_size, MADV_POPULATE_WRITE),
			    "madvise() should work");
	start_userfaultfd(m, &t, shares);
	print_calibration(m);

	for (i = 0; i <= ROUNDS; i++) {
		page = run_batch(m, &t, shares, page, i % 2 ? LARGE : SMALL, !i);
		page = run_batch(m, &t, shares, page, i % 2 ? SMALL : LARGE, !i);
	}
}

int main(int argc, char *argv[])
{
	const char *path = getenv("BENCH_OUT");
	size_t i;

	out = path ? fopen(path, "a") : stdout;
	TEST_ASSERT(out, "%s should be writable", path);
	setvbuf(out, NULL, _IOLBF, 0);

	for (i = 0; argc == 2 && i < ARRAY_SIZE(modes); i++) {
		if (!strcmp(modes[i].name, argv[1])) {
			run_mode(&modes[i]);
			return 0;
		}
	}
	fprintf(stderr, "usage: %s MODE, one of:\n", argv[0]);
	for (i = 0; i < ARRAY_SIZE(modes); i++)
		fprintf(stderr, "  %s\n", modes[i].name);
	return 2;
}
