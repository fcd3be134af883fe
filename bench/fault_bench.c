// SPDX-License-Identifier: GPL-2.0
/*
 * The price of one more fault, by how it is delivered: from the guest's access to an
 * absent page to its next instruction.  Also the price of the parts that every such
 * fault needs.
 *
 * The guest reads pages that it has never touched, in batches of two sizes.  A batch
 * costs a constant (its request and its ucall) plus its faults; the difference between
 * two sizes leaves the price of a fault.  Both sizes are multiples of what two
 * page-table pages map: per fault, all batches pay for equally many page-table pages
 * and refills of L1's page allocator.  The sizes take turns in going first, so that a
 * drift cancels out.  The timed part creates, prints and verifies nothing; timer ticks
 * fall into it.  The first batches are not counted.  Markers surround the last ones,
 * for bench/lockstep/timeline.c.
 *
 * Huge pages are too few for that.  Each of their accesses also pays for a page-table
 * page of the guest's, which KVM maps alone.
 *
 * Ticks are those of the CPU's counter (TSC, CNTVCT).  Under QEMU's icount a tick
 * stands for nanoseconds, and an instruction takes one.  Without icount this program
 * vouches for nothing.  It prints how many ticks a loop of known length took, for the
 * reader to check.
 *
 * One vCPU runs.  The VM has memory for two, so that "one userfaultfd for all vCPUs,
 * with a reader for each" and "one per vCPU" differ as they would in a VMM.
 *
 * Prints JSON lines to the file that BENCH_OUT names, or to stdout; results/README.md has
 * the format.  With BENCH_CPUS, vCPU and readers run on those CPUs, in this order.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "delivery.h"

#define BLOCK		512	/* pages that one page-table page maps, if all are 4K */
#define SMALL		(2 * BLOCK)
#define LARGE		(6 * BLOCK)
#define ROUNDS		4
#define VCPUS		2

#ifdef __x86_64__
static inline uint64_t ticks(void)
{
	uint32_t low, high;

	asm volatile("lfence; rdtsc" : "=a"(low), "=d"(high) :: "memory");
	return low | (uint64_t)high << 32;
}

/* A program cannot read the frequency of the TSC; icount makes it this. */
static uint64_t ticks_hz(void)
{
	return 1000000000;
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
#else
#error "which counter counts instructions under icount here?"
#endif

static FILE *out;

/* The shortest of several runs of known length: no timer tick fell into it. */
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

/* The least number of exits from the guest */
static size_t least_exits(const struct mode *m, size_t count)
{
	return m->work == PROVIDE ? 0 : count;
}

static size_t run_batch(struct delivery *d, size_t first, size_t count, int round)
{
	struct batch b = { .first = first, .count = count };
	uint64_t start, took, ns, messages = d->messages, exits = vcpu_exits(d->t.vcpus[0]);

	delivery_request(d, &b);
	ns = now_ns();
	if (round == ROUNDS)
		mark();
	start = ticks();
	delivery_run(d, &b);
	took = ticks() - start;
	if (round == ROUNDS)
		mark();
	ns = now_ns() - ns;

	messages = d->messages - messages;
	exits = vcpu_exits(d->t.vcpus[0]) - exits;
	delivery_verify(d, &b);
	delivery_check_messages(d, messages, count, 1);
	TEST_ASSERT(exits >= least_exits(d->m, count), "%zu pages took %lu exits to KVM: more than one at once was mapped",
		    count, exits);
	if (round)
		fprintf(out, "{\"mode\": \"%s\", \"pages\": %zu, \"exits\": %" PRIu64 ", \"messages\": %"
			PRIu64 ", \"planted\": %d, \"ticks\": %" PRIu64 ", \"ns\": %" PRIu64 "}\n", d->m->name, count,
			b.exits, messages, d->m->planted, took, ns);
	return first + count;
}

static void run_mode(const struct mode *m)
{
	static struct delivery d;
	size_t page = 0, small = mode_pages(m, SMALL), large = mode_pages(m, LARGE);
	int i;

	if (getenv("BENCH_CPUS"))
		pin(0);
	delivery_start(&d, m, VCPUS, (1 + ROUNDS) * (small + large), getenv("BENCH_CPUS") ? 1 : -1);
	print_calibration(m);
	for (i = 0; i <= ROUNDS; i++) {
		page = run_batch(&d, page, i % 2 ? large : small, i);
		page = run_batch(&d, page, i % 2 ? small : large, i);
	}
}

int main(int argc, char *argv[])
{
	const char *path = getenv("BENCH_OUT");
	const struct mode *m = find_mode(argc == 2 ? argv[1] : "");

	if (!m)
		return 2;
	out = path ? fopen(path, "a") : stdout;
	TEST_ASSERT(out, "%s should be writable", path);
	setvbuf(out, NULL, _IOLBF, 0);
	run_mode(m);
	return 0;
}
