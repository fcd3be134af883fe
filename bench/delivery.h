/* SPDX-License-Identifier: GPL-2.0 */
/* Ways to deliver and resolve the faults of vCPUs, which the benchmarks have in common. */
#ifndef BENCH_DELIVERY_H
#define BENCH_DELIVERY_H

#include "harness.h"

/* One row of the table in lib_delivery.c is one mode. */
struct mode {
	const char *name;
	enum vm_mem_backing_src_type backing;
	uint32_t flags;		/* of the memslot */
	int uffd_mode;		/* 0: memory is mapped in advance */
	bool sharded;		/* a userfaultfd and a reader for each vCPU, or one with as many readers */
	int planted;		/* instructions added to each exit, to be found again */
};

/* NULL, and the list of modes on stderr, if there is none of that name. */
const struct mode *find_mode(const char *name);

/* A VM as the mode has it, each vCPU with @pages of its own, and what serves it. */
struct delivery {
	const struct mode *m;
	struct test_vm t;
	int vcpus;
	struct test_vm shares[MAX_VCPUS];	/* of @t: what one userfaultfd covers */
	uint64_t messages;			/* that readers have had */
};

/*
 * Create it; skips the case if the kernel lacks the flag.  Readers block in read(), which
 * costs one system call less per fault than to poll, and end with the process.  If
 * @first_cpu is not negative, reader i runs on CPU @first_cpu + i alone.
 */
void delivery_start(struct delivery *d, const struct mode *m, int vcpus, size_t pages, int first_cpu);

/* What one vCPU reads in one go, and what came of it. */
struct batch {
	int vcpu;
	size_t first, count;	/* pages of the slot */
	uint64_t exits;
};

/* The part to be timed: the vCPU reads the pages; each that exits is resolved. */
void delivery_run(struct delivery *d, struct batch *b);
/* Then: it has read what each page was filled with, and each fault went the right way. */
void delivery_verify(struct delivery *d, const struct batch *b);

/* n times two instructions, whatever the architecture. */
void two_instructions_times(uint64_t n);

#endif
