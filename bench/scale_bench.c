// SPDX-License-Identifier: GPL-2.0
/*
 * How the delivery of faults scales: all vCPUs at once read pages that are absent, each
 * its own.
 *
 * usage: scale_bench MODE VCPUS
 *
 * Every vCPU and every reader has a CPU to itself, of BENCH_CPUS if that is set.  A marker instruction, which
 * real CPUs ignore and bench/lockstep/ notices, stands before and after the timed part,
 * in which nothing is created, entered for the first time, printed or verified.
 *
 * Prints a JSON line to the file that BENCH_OUT names, or to stdout; results/README.md has
 * the format.
 */
#include <stdio.h>
#include <stdlib.h>

#include "delivery.h"

#define WARM	512	/* pages of each vCPU that are not counted */
#define TIMED	1024

static struct delivery d;
static uint64_t ns;		/* of the timed part */
static int ready, done;
static bool go;

struct runner {
	pthread_t thread;
	struct batch warm, timed;
};

static void run_batch(struct batch *b)
{
	delivery_request(&d, b);
	delivery_run(&d, b);
}

/* Nobody sleeps at a gate: waking them would take its time, one after another. */
static void wait_for_all(int *count)
{
	while (__atomic_load_n(count, __ATOMIC_ACQUIRE) < d.vcpus)
		;
}

static void *vcpu_main(void *arg)
{
	struct runner *r = arg;
	bool first = !r->timed.vcpu;

	pin(r->timed.vcpu);
	run_batch(&r->warm);
	delivery_verify(&d, &r->warm);
	__atomic_add_fetch(&ready, 1, __ATOMIC_RELEASE);
	if (first) {
		wait_for_all(&ready);
		d.messages = 0;
		ns = now_ns();
		mark();
		__atomic_store_n(&go, true, __ATOMIC_RELEASE);
	}
	while (!__atomic_load_n(&go, __ATOMIC_ACQUIRE))
		;
	run_batch(&r->timed);
	__atomic_add_fetch(&done, 1, __ATOMIC_RELEASE);
	if (first) {
		wait_for_all(&done);
		mark();
		ns = now_ns() - ns;
	}
	delivery_verify(&d, &r->timed);
	return NULL;
}

static void run_all(void)
{
	static struct runner runners[MAX_VCPUS];
	struct batch b;
	int i;

	for (i = 0; i < d.vcpus; i++) {
		b = (struct batch){ .vcpu = i, .first = i * (WARM + TIMED), .count = WARM };
		runners[i].warm = b;
		b.first += WARM;
		b.count = TIMED;
		runners[i].timed = b;
		TEST_ASSERT(!pthread_create(&runners[i].thread, NULL, vcpu_main, &runners[i]),
			    "pthread_create() should work");
	}
	for (i = 0; i < d.vcpus; i++)
		pthread_join(runners[i].thread, NULL);
	TEST_ASSERT(d.messages == mode_messages(d.m, d.vcpus * TIMED),
		    "%d pages took %lu userfaultfd messages", d.vcpus * TIMED, d.messages);
}

int main(int argc, char *argv[])
{
	const struct mode *m = find_mode(argc == 3 ? argv[1] : "");
	const char *path = getenv("BENCH_OUT");
	int vcpus = argc == 3 ? atoi(argv[2]) : 0;
	FILE *out;

	if (!m || vcpus < 1 || vcpus > MAX_VCPUS) {
		fprintf(stderr, "usage: %s MODE VCPUS, at most %d\n", argv[0], MAX_VCPUS);
		return 2;
	}
	delivery_start(&d, m, vcpus, WARM + TIMED, vcpus);
	run_all();
	out = path ? fopen(path, "a") : stdout;
	TEST_ASSERT(out && fprintf(out, "{\"mode\": \"%s\", \"vcpus\": %d, \"pages\": %d, \"ns\": %lu}\n", m->name, vcpus,
				   vcpus * TIMED, ns) > 0, "%s should be writable", path);
	return fclose(out) ? 1 : 0;
}
