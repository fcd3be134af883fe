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

static const struct mode modes[] = {
	{ "mapped",               FAULT,   VM_MEM_SRC_SHMEM,     0,    0,       false },
	{ "empty_exit",           EXIT,    VM_MEM_SRC_SHMEM,     0,    0,       false },
	{ "uffdio_copy",          PROVIDE, VM_MEM_SRC_ANONYMOUS, 0,    MISSING, true },
	{ "uffdio_continue",      PROVIDE, VM_MEM_SRC_SHMEM,     0,    MINOR,   true },
	{ "uffd_missing",         FAULT,   VM_MEM_SRC_ANONYMOUS, 0,    MISSING, false },
	{ "uffd_missing_sharded", FAULT,   VM_MEM_SRC_ANONYMOUS, 0,    MISSING, true },
	{ "sigbus_missing",       FAULT,   VM_MEM_SRC_ANONYMOUS, 0,    MISSING, true, .sigbus = true },
	{ "fast_missing",         FAULT,   VM_MEM_SRC_ANONYMOUS, FLAG, MISSING, true },
	{ "uffd_minor",           FAULT,   VM_MEM_SRC_SHMEM,     0,    MINOR,   false },
	{ "uffd_minor_sharded",   FAULT,   VM_MEM_SRC_SHMEM,     0,    MINOR,   true },
	{ "sigbus_minor",         FAULT,   VM_MEM_SRC_SHMEM,     0,    MINOR,   true, .sigbus = true },
	{ "fast_minor",           FAULT,   VM_MEM_SRC_SHMEM,     FLAG, MINOR,   true },
	{ "uffd_minor_sharded_write", FAULT, VM_MEM_SRC_SHMEM,   0,    MINOR,   true, .write = true },
	{ "fast_minor_write",     FAULT,   VM_MEM_SRC_SHMEM,     FLAG, MINOR,   true, .write = true },
	{ "fast_minor_planted",   FAULT,   VM_MEM_SRC_SHMEM,     FLAG, MINOR,   true, .planted = 1000 },
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
	kvm_pin_this_task_to_pcpu(cpu);
}

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
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
	int error;

	if (r->cpu >= 0)
		pin(r->cpu);
	for (;;) {
		TEST_ASSERT(read(r->share->uffd, &msg, sizeof(msg)) == sizeof(msg), "read() should work");
		__atomic_add_fetch(&r->d->messages, 1, __ATOMIC_RELAXED);
		error = provide(r->share, (char *)msg.arg.pagefault.address, true);
		/* As in resolve(): TEST_ASSERT() would find the words each time. */
		if (error)
			TEST_FAIL("providing a page should work, not fail with %s", strerror(-error));
	}
	return NULL;
}

static struct test_vm *share_of(struct delivery *d, int vcpu)
{
	return &d->shares[d->m->sharded ? vcpu : 0];
}

static void start_userfaultfd(struct delivery *d, int first_cpu)
{
	static struct reading readings[MAX_VCPUS];
	int i, shares = d->m->sharded ? d->vcpus : 1;
	pthread_t thread;

	for (i = 0; i < shares; i++) {
		d->shares[i] = d->t;
		d->shares[i].pages = d->t.pages / shares;
		d->shares[i].hva = d->t.hva + i * d->shares[i].pages * d->t.page_size;
		d->shares[i].uffd_features = d->m->sigbus ? UFFD_FEATURE_SIGBUS : 0;
		uffd_register(&d->shares[i], d->m->uffd_mode);
		TEST_ASSERT(!fcntl(d->shares[i].uffd, F_SETFL, 0), "fcntl() should work");
		write_page(d->shares[i].source, TEST_GPA);
	}
	for (i = 0; i < d->vcpus; i++) {
		readings[i] = (struct reading){ d, share_of(d, i), first_cpu < 0 ? -1 : first_cpu + i };
		TEST_ASSERT(!pthread_create(&thread, NULL, reader, &readings[i]), "pthread_create() should work");
	}
}

void delivery_start(struct delivery *d, const struct mode *m, int vcpus, size_t pages, int first_cpu)
{
	/* Without the series, a lookup that fails is not annotated on arm64, nor always on x86. */
	if (m->flags || m->sigbus)
		REQUIRE_FLAG();
	d->m = m;
	d->vcpus = vcpus;
	d->t = test_vm_create(vcpus, m->backing, vcpus * pages, m->flags);
	if (d->t.alias)
		fill_page_cache(&d->t);
	if (m->uffd_mode)
		start_userfaultfd(d, first_cpu);
	else
		TEST_ASSERT(!madvise(d->t.hva, d->t.pages * d->t.page_size, MADV_POPULATE_WRITE),
			    "madvise() should work");
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

/* What GUEST_SYNC() does in the end, with nothing to say. */
static uint64_t guest_exit(uint64_t gva)
{
	mark_page();
	ucall_arch_do_ucall(0);
	return 0;
}

void delivery_request(struct delivery *d, const struct batch *b)
{
	guest_function function = d->m->write ? guest_write : guest_read;

	request_calls(&d->t, b->vcpu, d->m->work == EXIT ? guest_exit : function,
		      b->first * d->t.page_size, d->m->work == PROVIDE ? 0 : b->count);
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
		if (provide(share, page_hva(&d->t, b->first + i), false))
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

uint64_t mode_messages(const struct mode *m, uint64_t pages)
{
	return m->uffd_mode && m->work == FAULT && !mode_exits(m) ? pages : 0;
}

/* What the page's first bytes are. */
static uint64_t content(struct delivery *d, size_t page)
{
	return fetch_code(d->m->uffd_mode == MISSING ? TEST_GPA : page_gpa(&d->t, page));
}

void delivery_verify(struct delivery *d, const struct batch *b)
{
	uint64_t sum = completion(&d->t, b->vcpu), want = 0;
	size_t i;

	for (i = b->first; i < b->first + b->count; i++) {
		if (d->m->work == FAULT)
			want += content(d, i);
		if (d->m->work == PROVIDE)
			TEST_ASSERT(*(uint64_t *)page_hva(&d->t, i) == content(d, i), "page %zu should be there", i);
		if (d->m->write)
			TEST_ASSERT(((uint64_t *)page_hva(&d->t, i))[WRITTEN] == TEST_GVA + i * d->t.page_size,
				    "what the guest wrote to page %zu should be there", i);
	}
	TEST_ASSERT(sum == want, "the guest should read a sum of 0x%lx, not 0x%lx", want, sum);
	TEST_ASSERT(b->exits == (mode_exits(d->m) ? b->count : 0), "%zu pages took %lu exits", b->count, b->exits);
}
