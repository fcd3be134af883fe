// SPDX-License-Identifier: GPL-2.0
/* See delivery.h for what each function promises. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <linux/userfaultfd.h>

#include "delivery.h"
#include "ucall_common.h"

#define FLAG	KVM_MEM_ABSENT_MAPPING_FAULT
#define MISSING	UFFDIO_REGISTER_MODE_MISSING
#define MINOR	UFFDIO_REGISTER_MODE_MINOR

#define ANON	VM_MEM_SRC_ANONYMOUS
#define THP	VM_MEM_SRC_ANONYMOUS_THP
#define SHMEM	VM_MEM_SRC_SHMEM
#define HUGETLB	VM_MEM_SRC_SHARED_HUGETLB

static const struct mode modes[] = {
	{ "mapped",			FAULT,	 SHMEM,	  0,	0,	 false },
	{ "mapped_thp",			FAULT,	 THP,	  0,	0,	 false },
	{ "empty_exit",			EXIT,	 SHMEM,	  0,	0,	 false },
	{ "uffdio_copy",		PROVIDE, ANON,	  0,	MISSING, true },
	{ "uffdio_continue",		PROVIDE, SHMEM,	  0,	MINOR,	 true },
	{ "uffd_missing",		FAULT,	 ANON,	  0,	MISSING, false },
	{ "uffd_missing_sharded",	FAULT,	 ANON,	  0,	MISSING, true },
	{ "sigbus_missing",		FAULT,	 ANON,	  0,	MISSING, true, .sigbus = true },
	{ "fast_missing",		FAULT,	 ANON,	  FLAG,	MISSING, true },
	{ "fast_missing_thp",		FAULT,	 THP,	  FLAG,	MISSING, true },
	{ "uffd_minor",			FAULT,	 SHMEM,	  0,	MINOR,	 false },
	{ "uffd_minor_one_reader",	FAULT,	 SHMEM,	  0,	MINOR,	 false, .readers = 1 },
	{ "uffd_minor_sharded",		FAULT,	 SHMEM,	  0,	MINOR,	 true },
	{ "sigbus_minor",		FAULT,	 SHMEM,	  0,	MINOR,	 true, .sigbus = true },
	{ "fast_minor",			FAULT,	 SHMEM,	  FLAG,	MINOR,	 true },
	{ "uffd_minor_sharded_write",	FAULT,	 SHMEM,	  0,	MINOR,	 true, .touch = WRITE },
	{ "fast_minor_write",		FAULT,	 SHMEM,	  FLAG,	MINOR,	 true, .touch = WRITE },
	{ "uffd_minor_sharded_mixed",	FAULT,	 SHMEM,	  0,	MINOR,	 true, .touch = MIXED },
	{ "fast_minor_mixed",		FAULT,	 SHMEM,	  FLAG,	MINOR,	 true, .touch = MIXED },
	{ "uffd_minor_sharded_random",	FAULT,	 SHMEM,	  0,	MINOR,	 true, .random = true },
	{ "fast_minor_random",		FAULT,	 SHMEM,	  FLAG,	MINOR,	 true, .random = true },
	{ "uffd_minor_sharded_hugetlb",	FAULT,	 HUGETLB, 0,	MINOR,	 true },
	{ "fast_minor_hugetlb",		FAULT,	 HUGETLB, FLAG,	MINOR,	 true },
	{ "uffd_minor_overlap",		FAULT,	 SHMEM,	  0,	MINOR,	 false, .overlap = true },
	{ "fast_minor_overlap",		FAULT,	 SHMEM,	  FLAG,	MINOR,	 false, .overlap = true },
	{ "uffd_minor_far",		FAULT,	 SHMEM,	  0,	MINOR,	 false, .far = true },
	{ "uffd_minor_sharded_far",	FAULT,	 SHMEM,	  0,	MINOR,	 true, .far = true },
	{ "fast_minor_far",		FAULT,	 SHMEM,	  FLAG,	MINOR,	 true, .far = true },
	{ "fast_minor_planted",		FAULT,	 SHMEM,	  FLAG,	MINOR,	 true, .planted = 1000 },
};

const struct mode *find_mode(const char *name)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(modes); i++)
		if (!strcmp(modes[i].name, name))
			return &modes[i];
	fprintf(stderr, "no mode %s; there are:\n", name);
	for (i = 0; i < ARRAY_SIZE(modes); i++)
		fprintf(stderr, "  %s\n", modes[i].name);
	return NULL;
}

size_t mode_page(const struct mode *m)
{
	return m->uffd_mode && m->backing == THP ? getpagesize() : get_backing_src_pagesz(m->backing);
}

#define HUGE_PART	128	/* one in so many */

size_t mode_pages(const struct mode *m, size_t pages)
{
	return mode_page(m) > getpagesize() ? pages / HUGE_PART : pages;
}

void two_instructions_times(uint64_t n)
{
#ifdef __x86_64__
	asm volatile("1: dec %0; jnz 1b" : "+r"(n));
#elif defined(__aarch64__)
	asm volatile("1: subs %0, %0, #1; b.ne 1b" : "+r"(n) :: "cc");
#else
#error "what is a loop of two instructions here?"
#endif
}

/* The @index-th number of a list such as 2,4,8-15; -1 if it is shorter. */
static int nth_of(const char *list, int index)
{
	char *end;
	long first, last;

	for (; *list; list = *end == ',' ? end + 1 : "") {
		first = last = strtol(list, &end, 10);
		if (*end == '-')
			last = strtol(end + 1, &end, 10);
		if (index <= last - first)
			return first + index;
		index -= last - first + 1;
	}
	return -1;
}

void pin(int index)
{
	const char *list = getenv("BENCH_CPUS");
	int cpu = list ? nth_of(list, index) : index;

	TEST_ASSERT(cpu >= 0, "BENCH_CPUS=%s has to name %d CPUs at least", list, index + 1);
	pin_to_cpu(cpu);
}

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/*
 * Fetch a page from another machine.  On an emulated machine time means nothing, so
 * an instruction is a nanosecond: instruction_ns of init.c.
 */
static void fetch_from_afar(struct test_vm *t, char *start)
{
	static int in_flight;
	uint64_t until;
	int now;

	do {
		now = __atomic_load_n(&in_flight, __ATOMIC_RELAXED);
	} while (now >= FETCH_LIMIT || !__atomic_compare_exchange_n(&in_flight, &now, now + 1, true, __ATOMIC_ACQUIRE,
								     __ATOMIC_RELAXED));
	if (getenv("instruction_ns")) {
		two_instructions_times(FETCH_NS / 2);
	} else {
		for (until = now_ns() + FETCH_NS; now_ns() < until; )
			;
	}
	__atomic_sub_fetch(&in_flight, 1, __ATOMIC_RELEASE);
}

struct reading {
	struct delivery *d;
	struct test_vm *share;
	int cpu;
};

static void *reader(void *arg)
{
	struct reading *r = arg;
	struct uffd_msg msg;
	char *start;
	int error;

	if (r->cpu >= 0)
		pin(r->cpu);
	for (;;) {
		TEST_ASSERT(read(r->share->uffd, &msg, sizeof(msg)) == sizeof(msg), "read() should work");
		__atomic_add_fetch(&r->d->messages, 1, __ATOMIC_RELAXED);
		start = (char *)(msg.arg.pagefault.address & ~(r->share->granule - 1));
		if (r->share->fetch)
			r->share->fetch(r->share, start);
		error = provide_and_wake(r->share, start);
		/* As in resolve(): TEST_ASSERT() would evaluate its message each time. */
		if (error)
			TEST_FAIL("providing a page should work, not fail with %s", strerror(-error));
	}
	return NULL;
}

static struct test_vm *share_of(struct delivery *d, int vcpu)
{
	return &d->shares[d->m->sharded ? vcpu : 0];
}

static void register_shares(struct delivery *d)
{
	int i, shares = d->m->sharded ? d->vcpus : 1;

	for (i = 0; i < shares; i++) {
		d->shares[i] = d->t;
		d->shares[i].pages = d->t.pages / shares;
		d->shares[i].hva = d->t.hva + i * d->shares[i].pages * d->t.page_size;
		d->shares[i].uffd_features = d->m->sigbus ? UFFD_FEATURE_SIGBUS : 0;
		d->shares[i].fetch = d->m->far ? fetch_from_afar : NULL;
		uffd_register(&d->shares[i], d->m->uffd_mode);
		TEST_ASSERT(!fcntl(d->shares[i].uffd, F_SETFL, 0), "fcntl() should work");
		write_page(d->shares[i].source, TEST_GPA);
	}
}

static void start_readers(struct delivery *d, int first_cpu)
{
	static struct reading readings[MAX_VCPUS];
	int i, n = d->m->readers ? d->m->readers : d->vcpus;
	pthread_t thread;

	for (i = 0; i < n; i++) {
		readings[i] = (struct reading){ d, share_of(d, i), first_cpu < 0 ? -1 : first_cpu + i };
		TEST_ASSERT(!pthread_create(&thread, NULL, reader, &readings[i]), "pthread_create() should work");
	}
}

void delivery_start(struct delivery *d, const struct mode *m, int vcpus, size_t pages, int first_cpu)
{
	/* Without the series, arm64 never annotates a failed lookup, and x86 not always. */
	if (m->flags || m->sigbus)
		REQUIRE_FLAG();
	d->m = m;
	d->vcpus = vcpus;
	d->page = mode_page(m);
	pages *= d->page / getpagesize();
	d->t = test_vm_create(vcpus, m->backing, m->overlap ? pages : vcpus * pages, m->flags);
	if (d->t.alias)
		fill_page_cache(&d->t);
	if (m->uffd_mode) {
		register_shares(d);
		start_readers(d, first_cpu);
	} else {
		TEST_ASSERT(!madvise(d->t.hva, d->t.pages * d->t.page_size, MADV_POPULATE_WRITE),
			    "madvise() should work");
	}
}

void delivery_check_messages(struct delivery *d, uint64_t messages, uint64_t pages, int vcpus)
{
	bool asks = d->m->uffd_mode && d->m->work == FAULT && !mode_exits(d->m);
	uint64_t least = asks ? pages * (d->m->overlap ? 1 : vcpus) : 0, most = asks ? pages * vcpus : 0;

	TEST_ASSERT(messages >= least && messages <= most,
		    "%lu pages of %d vCPUs took %lu userfaultfd messages", pages, vcpus, messages);
}

static uint64_t guest_read(uint64_t gva)
{
	mark_page();
	return READ_ONCE(*(uint64_t *)gva);
}

#define WRITTEN	1	/* which word of a page */

static uint64_t guest_write(uint64_t gva)
{
	mark_page();
	WRITE_ONCE(((uint64_t *)gva)[WRITTEN], gva);
	return READ_ONCE(*(uint64_t *)gva);
}

#define ODD_PAGE	4096

static uint64_t guest_mix(uint64_t gva)
{
	return gva & ODD_PAGE ? guest_write(gva) : guest_read(gva);
}

/* The last step of GUEST_SYNC(), without a message. */
static uint64_t guest_exit(uint64_t gva)
{
	mark_page();
	ucall_arch_do_ucall(0);
	return 0;
}

/* Prime to all batch sizes; so long that the next page is mostly in another page-table page */
#define STRIDE	509

void delivery_request(struct delivery *d, const struct batch *b)
{
	static const guest_function touches[] = { [READ] = guest_read, [WRITE] = guest_write, [MIXED] = guest_mix };

	request_walk(&d->t, b->vcpu, &(struct guest_walk){
		.function = d->m->work == EXIT ? guest_exit : touches[d->m->touch],
		.offset = b->first * d->page, .count = d->m->work == PROVIDE ? 0 : b->count,
		.stride = d->page, .step = d->m->random ? STRIDE : 1 });
}

static char *hva_of(struct delivery *d, size_t page)
{
	return d->t.hva + page * d->page;
}

static void run_faults(struct delivery *d, struct batch *b)
{
	struct kvm_vcpu *vcpu = d->t.vcpus[b->vcpu];
	struct test_vm *share = share_of(d, b->vcpu);
	int r;

	while ((r = __vcpu_run(vcpu)) && errno == EFAULT &&
	       vcpu->run->exit_reason == KVM_EXIT_MEMORY_FAULT) {
		if (d->m->planted)
			two_instructions_times(d->m->planted / 2);
		resolve(share, vcpu, -EFAULT);
		b->exits++;
	}
	TEST_ASSERT(!r, "KVM_RUN should succeed, errno %d, exit reason %u", errno,
		    vcpu->run->exit_reason);
}

static void run_exits(struct delivery *d, struct batch *b)
{
	struct kvm_vcpu *vcpu = d->t.vcpus[b->vcpu];

	for (b->exits = 0; b->exits < b->count; b->exits++)
		if (__vcpu_run(vcpu) || vcpu->run->exit_reason != UCALL_EXIT_REASON)
			TEST_FAIL("the guest should exit by itself, not with errno %d, reason %u", errno,
				  vcpu->run->exit_reason);
	run_faults(d, b);
}

static void provide_pages(struct delivery *d, struct batch *b)
{
	struct test_vm *share = share_of(d, b->vcpu);
	size_t i;

	for (i = 0; i < b->count; i++)
		if (provide(share, hva_of(d, b->first + i), false))
			TEST_FAIL("providing page %zu should work", b->first + i);
	run_faults(d, b);
}

void delivery_run(struct delivery *d, struct batch *b)
{
	if (d->m->work == EXIT)
		run_exits(d, b);
	else if (d->m->work == PROVIDE)
		provide_pages(d, b);
	else
		run_faults(d, b);
}

bool mode_exits(const struct mode *m)
{
	return m->work == EXIT || (m->work == FAULT && (m->flags || m->sigbus));
}

/* The first bytes of the page. */
static uint64_t content(struct delivery *d, size_t page)
{
	if (d->m->uffd_mode == MISSING)
		return fetch_code(TEST_GPA);
	/* Anonymous memory that is mapped in advance */
	return d->t.alias ? fetch_code(TEST_GPA + page * d->page) : 0;
}

static bool writes(struct delivery *d, size_t page)
{
	return d->m->touch == WRITE || (d->m->touch == MIXED && (page * d->page & ODD_PAGE));
}

static void verify_page(struct delivery *d, size_t page)
{
	uint64_t *words = (uint64_t *)hva_of(d, page);

	if (d->m->work == PROVIDE)
		TEST_ASSERT(*words == content(d, page), "page %zu should be there", page);
	if (writes(d, page))
		TEST_ASSERT(words[WRITTEN] == TEST_GVA + page * d->page,
			    "what the guest wrote to page %zu should be there", page);
}

void delivery_verify(struct delivery *d, const struct batch *b)
{
	uint64_t sum = completion(&d->t, b->vcpu), want = 0, exits = mode_exits(d->m) ? b->count : 0;
	size_t i;

	for (i = b->first; i < b->first + b->count; i++) {
		if (d->m->work == FAULT)
			want += content(d, i);
		verify_page(d, i);
	}
	TEST_ASSERT(sum == want, "the guest should read a sum of 0x%lx, not 0x%lx", want, sum);
	/* vCPUs that share pages find some of them present. */
	TEST_ASSERT(d->m->overlap ? b->exits <= exits : b->exits == exits, "%zu pages took %lu exits", b->count, b->exits);
}
