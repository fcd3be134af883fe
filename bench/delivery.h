/* SPDX-License-Identifier: GPL-2.0 */
/* The ways to deliver and resolve faults of vCPUs, shared by the benchmarks. */
#ifndef BENCH_DELIVERY_H
#define BENCH_DELIVERY_H

#include "harness.h"

/* The work for each page: a fault, or one of the parts that every fault needs. */
enum work {
	FAULT,		/* the guest reads it for the first time */
	EXIT,		/* the guest exits to userspace, which has nothing to do */
	PROVIDE,	/* userspace provides it, as for a fault that exits; no guest runs */
};

/* READ: reads.  WRITE: writes, then reads.  MIXED: reads even pages, writes odd ones. */
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
	int planted;		/* instructions added to each exit; the table must find them */
	enum touch touch;
	bool random;		/* pages in an order that helps nobody; otherwise ascending */
	bool overlap;		/* all vCPUs share the pages; otherwise each has its own */
	bool sigbus;		/* UFFD_FEATURE_SIGBUS: KVM's slow lookup fails instead of waiting */
	bool far;		/* a page comes over a network: FETCH_NS each, FETCH_LIMIT at once */
};

#define FETCH_NS	30000
#define FETCH_LIMIT	16

/* Whether each page causes an exit to userspace. */
bool mode_exits(const struct mode *m);

/*
 * Bytes of a "page" here and below, which is provided at once: a huge page for hugetlb,
 * and for THP that is mapped in advance.
 */
size_t mode_page(const struct mode *m);
/* @pages of them, or fewer if they are huge. */
size_t mode_pages(const struct mode *m, size_t pages);

/* NULL if there is no such mode; then stderr has the list. */
const struct mode *find_mode(const char *name);

/* The VM of a mode, and its userfaultfds. */
struct delivery {
	const struct mode *m;
	struct test_vm t;
	int vcpus;
	size_t page;				/* bytes */
	struct test_vm shares[MAX_VCPUS];	/* parts of @t, one per userfaultfd */
	uint64_t messages;			/* that the readers received */
};

/*
 * Create it, with @pages for each vCPU, or for all if they overlap.  Skips the case if
 * the kernel lacks the flag.  Readers end with the process.  They block in read(), which
 * costs one system call less per fault than poll().  If @first_cpu is not negative,
 * reader i does pin(@first_cpu + i).
 */
void delivery_start(struct delivery *d, const struct mode *m, int vcpus, size_t pages, int first_cpu);

/* Check the number of messages, if each of @vcpus accessed each of @pages. */
void delivery_check_messages(struct delivery *d, uint64_t messages, uint64_t pages, int vcpus);

/*
 * Instructions without effect, which the plugins of bench/lockstep/ notice: around the
 * timed part, before the warm-up, and in the guest before each page.
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

/* One vCPU's work in one go, and its exits. */
struct batch {
	int vcpu;
	size_t first, count;	/* pages of the slot */
	uint64_t exits;
};

/* Set the vCPU's next work. */
void delivery_request(struct delivery *d, const struct batch *b);
/* The timed part: run the vCPU, and resolve each fault that exits. */
void delivery_run(struct delivery *d, struct batch *b);
/* Afterwards: the guest read the right content, and each fault was delivered as the mode says. */
void delivery_verify(struct delivery *d, const struct batch *b);

/*
 * From here on, run on one CPU only: the @index-th of the list in BENCH_CPUS (2,4,8-15).
 * Without a list, CPU @index.
 */
void pin(int index);

/* CLOCK_MONOTONIC in ns; meaningless on an emulated machine. */
uint64_t now_ns(void);

/* A loop of two instructions, n times, on any architecture. */
void two_instructions_times(uint64_t n);

#endif
