/* SPDX-License-Identifier: GPL-2.0 */
/* Ways to deliver and resolve the faults of vCPUs, which the benchmarks have in common. */
#ifndef BENCH_DELIVERY_H
#define BENCH_DELIVERY_H

#include "harness.h"

/* What is done for each page: a fault, or one of the parts that a fault has to have. */
enum work {
	FAULT,		/* the guest reads it for the first time */
	EXIT,		/* the guest exits to userspace, which has nothing to do */
	PROVIDE,	/* userspace provides it, as for a fault that exits; no guest runs */
};

/* Whether the guest reads, writes before it reads, or does one for even pages, the other for odd ones. */
enum touch { READ, WRITE, MIXED };

/* One row of the table in lib_delivery.c is one mode. */
struct mode {
	const char *name;
	enum work work;
	enum vm_mem_backing_src_type backing;
	uint32_t flags;		/* of the memslot */
	int uffd_mode;		/* 0: memory is mapped in advance */
	bool sharded;		/* a userfaultfd and a reader for each vCPU, or one for all */
	int readers;		/* of one for all; 0: as many as vCPUs */
	int planted;		/* instructions added to each exit, to be found again */
	enum touch touch;
	bool random;		/* in no order that helps anybody, or one after the other */
	bool overlap;		/* all vCPUs share the pages, or each has its own */
	bool sigbus;		/* UFFD_FEATURE_SIGBUS: KVM's slow lookup fails instead of waiting */
	bool far;		/* a page comes over a network: FETCH_NS each, FETCH_LIMIT at once */
};

#define FETCH_NS	30000
#define FETCH_LIMIT	16

/* Whether each page is an exit to userspace. */
bool mode_exits(const struct mode *m);

/*
 * Bytes of what is called a page here and below, what is provided at once: a huge one for
 * hugetlb and, where it is mapped in advance, for THP.
 */
size_t mode_page(const struct mode *m);
/* @pages of them, or fewer if they are huge. */
size_t mode_pages(const struct mode *m, size_t pages);

/* NULL, and the list of modes on stderr, if there is none of that name. */
const struct mode *find_mode(const char *name);

/* A VM as the mode has it, and what serves it. */
struct delivery {
	const struct mode *m;
	struct test_vm t;
	int vcpus;
	size_t page;				/* bytes */
	struct test_vm shares[MAX_VCPUS];	/* of @t: what one userfaultfd covers */
	uint64_t messages;			/* that readers have had */
};

/*
 * Create it, with @pages for each vCPU, or for all if they overlap; skips the case if the
 * kernel lacks the flag.  Readers block in read(), which costs one system call less per
 * fault than to poll, and end with the process.  If @first_cpu is not negative, reader i
 * does pin(@first_cpu + i).
 */
void delivery_start(struct delivery *d, const struct mode *m, int vcpus, size_t pages, int first_cpu);

/* That the readers had as many messages as @pages must give, if each of @vcpus accessed each. */
void delivery_check_messages(struct delivery *d, uint64_t messages, uint64_t pages, int vcpus);

/*
 * Instructions that do nothing, for the plugins of bench/lockstep/ to notice: around the
 * timed part, and in the guest before each page.
 */
#ifdef __x86_64__
#define mark()		asm volatile("xchg %%rbx, %%rbx" ::: "memory")
#define mark_page()	asm volatile("xchg %%rcx, %%rcx" ::: "memory")
#define mark_warm()	asm volatile("xchg %%rdx, %%rdx" ::: "memory")
#elif defined(__aarch64__)
#define mark()		asm volatile("hint #0x60" ::: "memory")
#define mark_page()	asm volatile("hint #0x61" ::: "memory")
#define mark_warm()	asm volatile("hint #0x62" ::: "memory")
#else
#error "which instructions do nothing here?"
#endif

/* What one vCPU does in one go, and what came of it. */
struct batch {
	int vcpu;
	size_t first, count;	/* pages of the slot */
	uint64_t exits;
};

/* Say what the vCPU does next. */
void delivery_request(struct delivery *d, const struct batch *b);
/* The part to be timed: the vCPU does it; each fault that exits is resolved. */
void delivery_run(struct delivery *d, struct batch *b);
/* Then: it has read what each page was filled with, and each fault went the right way. */
void delivery_verify(struct delivery *d, const struct batch *b);

/*
 * Run on one CPU alone from here on: the @index-th of the list in BENCH_CPUS (2,4,8-15), or
 * the one of that number if there is no list.
 */
void pin(int index);

/* CLOCK_MONOTONIC, in ns; on an emulated machine it means nothing. */
uint64_t now_ns(void);

/* n times two instructions, whatever the architecture. */
void two_instructions_times(uint64_t n);

#endif
