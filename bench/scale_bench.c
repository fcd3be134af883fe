// SPDX-License-Identifier: GPL-2.0
/*
 * How the delivery of faults scales: all vCPUs access absent pages at once, each its own
 * pages, or all the same ones.
 *
 * usage: scale_bench MODE [VCPUS]	VCPUS: or "vcpus" in the environment
 *
 * Every vCPU and every reader has its own CPU, of BENCH_CPUS if that is set.  A marker
 * stands before and after each timed part: real CPUs ignore it, bench/lockstep/ notices
 * it.  Inside, nothing is created, entered for the first time, printed or verified.  A
 * page that all vCPUs access counts once.
 *
 * Prints a JSON line for each timed part to the file that BENCH_OUT names, or to stdout;
 * results/README.md has the format.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "delivery.h"

#define WARM	16	/* uncounted pages of each vCPU; up to 30 more */
#define TIMED	64	/* of each timed part */
#define LRU_BATCH	31	/* pages that a CPU adds to the LRU at once: PAGEVEC_SIZE */
#define PER_TABLE	512	/* pages: vCPUs share no page table; the warm-up touches all */
#define PARTS	2	/* lockstep takes another quantum for the second */

static struct delivery d;
static size_t timed_pages;	/* TIMED of the mode */
static uint64_t ns[PARTS];	/* of the timed parts */
static int ready, done;		/* number of times, over all vCPUs and parts */
static int go;			/* parts that have begun */
static pthread_barrier_t warm;
static bool drained;		/* RCU callbacks ran before the first part */

struct runner {
	pthread_t thread;
	struct batch warm, timed[PARTS];
};

static void run_batch(struct batch *b)
{
	delivery_request(&d, b);
	delivery_run(&d, b);
}

/* Spin: waking sleepers one after another would take part of the timed time. */
static void wait_for_all(int *count, int part)
{
	while (__atomic_load_n(count, __ATOMIC_ACQUIRE) < (part + 1) * d.vcpus)
		;
}

static void start_clock(int part)
{
	wait_for_all(&ready, part);
	ns[part] = now_ns();
	mark();
	__atomic_store_n(&go, part + 1, __ATOMIC_RELEASE);
}

static void stop_clock(int part)
{
	wait_for_all(&done, part);
	mark();
	ns[part] = now_ns() - ns[part];
}

static void run_part(struct runner *r, int part, bool first)
{
	__atomic_add_fetch(&ready, 1, __ATOMIC_RELEASE);
	if (first)
		start_clock(part);
	while (__atomic_load_n(&go, __ATOMIC_ACQUIRE) <= part)
		;
	run_batch(&r->timed[part]);
	__atomic_add_fetch(&done, 1, __ATOMIC_RELEASE);
	if (first)
		stop_clock(part);
	wait_for_all(&done, part);
	delivery_verify(&d, &r->timed[part]);
}

/*
 * Free now what call_rcu() has left from boot and earlier processes.  In a timed part, it
 * took one CPU up to 300000 instructions of a million.  Returns false where this cannot be
 * requested: before Linux 6.5, and without root.
 */
static bool run_rcu_callbacks(void)
{
	int fd = open("/sys/module/rcutree/parameters/do_rcu_barrier", O_WRONLY);
	bool done = fd >= 0 && write(fd, "1", 1) == 1;

	TEST_ASSERT(done || !getenv("instruction_ns"), "an emulated machine should run its RCU callbacks");
	if (fd >= 0)
		close(fd);
	return done;
}

static void *vcpu_main(void *arg)
{
	struct runner *r = arg;
	int part;

	pin(r->warm.vcpu);
	run_batch(&r->warm);
	delivery_verify(&d, &r->warm);
	/* Sleep here: a slow thread then has the host to itself. */
	if (pthread_barrier_wait(&warm) == PTHREAD_BARRIER_SERIAL_THREAD) {
		drained = run_rcu_callbacks();
		d.messages = 0;
	}
	pthread_barrier_wait(&warm);
	for (part = 0; part < PARTS; part++)
		run_part(r, part, !r->warm.vcpu);
	return NULL;
}

/* With equal warm-ups, vCPUs in lockstep would all take the LRU's lock at the same moment. */
static size_t warm_pages(int vcpu)
{
	return mode_pages(d.m, WARM) + (d.m->overlap ? 0 : vcpu % LRU_BATCH);
}

static size_t all_warm_pages(void)
{
	size_t sum = warm_pages(0);
	int i;

	for (i = 1; i < d.vcpus && !d.m->overlap; i++)
		sum += warm_pages(i);
	return sum;
}

static struct runner runner_of(int vcpu)
{
	size_t first = d.m->overlap ? 0 : vcpu * PER_TABLE;
	struct runner r = { .warm = { .vcpu = vcpu, .first = first, .count = warm_pages(vcpu) } };
	int part;

	for (part = 0; part < PARTS; part++)
		r.timed[part] = (struct batch){ .vcpu = vcpu, .first = first + r.warm.count + part * timed_pages,
						.count = timed_pages };
	return r;
}

static void run_all(void)
{
	static struct runner runners[MAX_VCPUS];
	uint64_t exits = 0, pages = PARTS * timed_pages;
	int i, part;

	pthread_barrier_init(&warm, NULL, d.vcpus);
	for (i = 0; i < d.vcpus; i++) {
		runners[i] = runner_of(i);
		TEST_ASSERT(!pthread_create(&runners[i].thread, NULL, vcpu_main, &runners[i]),
			    "pthread_create() should work");
	}
	for (i = 0; i < d.vcpus; i++) {
		pthread_join(runners[i].thread, NULL);
		for (part = 0; part < PARTS; part++)
			exits += runners[i].timed[part].exits;
	}
	delivery_check_messages(&d, d.messages, pages, d.vcpus);
	TEST_ASSERT(exits >= (mode_exits(d.m) ? pages : 0), "%zu pages took %lu exits of all vCPUs", pages, exits);
}

static bool print(FILE *out, int part)
{
	size_t times = d.m->overlap ? 1 : d.vcpus;

	return fprintf(out, "{\"mode\": \"%s\", \"vcpus\": %d, \"pages\": %zu, \"warm\": %zu, \"drained\": %s, \"ns\": %lu}\n",
		       d.m->name, d.vcpus, times * timed_pages, part ? 0 : all_warm_pages(), drained ? "true" : "false",
		       ns[part]) > 0;
}

int main(int argc, char *argv[])
{
	const struct mode *m = find_mode(argc > 1 ? argv[1] : "");
	const char *path = getenv("BENCH_OUT"), *number = argc > 2 ? argv[2] : getenv("vcpus");
	int vcpus = number ? atoi(number) : 0;
	FILE *out;
	int part;

	if (!m || vcpus < 1 || vcpus > MAX_VCPUS) {
		fprintf(stderr, "usage: %s MODE [VCPUS], at most %d, or vcpus= in the environment\n", argv[0], MAX_VCPUS);
		return 2;
	}
	timed_pages = mode_pages(m, TIMED);
	delivery_start(&d, m, vcpus, PER_TABLE, vcpus);
	mark_warm();
	run_all();
	out = path ? fopen(path, "a") : stdout;
	for (part = 0; part < PARTS; part++)
		TEST_ASSERT(out && print(out, part), "%s should be writable", path);
	return fclose(out) ? 1 : 0;
}
