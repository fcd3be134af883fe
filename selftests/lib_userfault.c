// SPDX-License-Identifier: GPL-2.0
/*
 * How a VMM provides memory to a memslot with KVM_MEM_ABSENT_MAPPING_FAULT: in the
 * vCPU's thread after an exit, and in a reader of the userfaultfd for all others.  The
 * tests and the benchmark share all of it except the reader.  harness.h says what each
 * function promises.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/userfaultfd.h>

#include "harness.h"

/*
 * Legal repeats are few: an invalidation in flight, a page reclaimed at once.  A page
 * that faults more often than this in a row faults for ever.
 */
#define MAX_REPEATS	1000

enum fetched { NOT_FETCHED, FETCHING, FETCHED };

void uffd_register(struct test_vm *t, int mode)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_THREAD_ID | t->uffd_features };
	struct uffdio_register reg = {
		.range = { (uintptr_t)t->hva, t->pages * t->page_size },
		.mode = mode,
	};

	t->uffd_mode = mode;
	t->source = calloc(1, t->granule);
	t->fetched = calloc(1, t->pages * t->page_size / t->granule);
	t->uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	TEST_ASSERT(t->uffd >= 0 && t->source && t->fetched, "userfaultfd() should work");
	TEST_ASSERT(!ioctl(t->uffd, UFFDIO_API, &api), "UFFDIO_API should work");
	TEST_ASSERT(!ioctl(t->uffd, UFFDIO_REGISTER, &reg), "UFFDIO_REGISTER should work");
}

static char *granule_of(struct test_vm *t, char *hva)
{
	return (char *)((uintptr_t)hva & ~(t->granule - 1));
}

static int provide_once(struct test_vm *t, uintptr_t start, bool wake)
{
	struct uffdio_continue c = {
		.range = { start, t->granule }, .mode = wake ? 0 : UFFDIO_CONTINUE_MODE_DONTWAKE,
	};
	struct uffdio_copy copy = {
		.dst = start, .src = (uintptr_t)t->source, .len = t->granule,
		.mode = wake ? 0 : UFFDIO_COPY_MODE_DONTWAKE,
	};
	int r;

	if (t->uffd_mode & UFFDIO_REGISTER_MODE_MINOR)
		r = ioctl(t->uffd, UFFDIO_CONTINUE, &c);
	else
		r = ioctl(t->uffd, UFFDIO_COPY, &copy);
	return r ? -errno : 0;
}

int provide(struct test_vm *t, char *hva, bool wake)
{
	int r;

	/* EAGAIN: the address space is changing, for instance in fork(). */
	do {
		r = provide_once(t, (uintptr_t)granule_of(t, hva), wake);
	} while (r == -EAGAIN);
	return r;
}

int provide_and_wake(struct test_vm *t, char *start)
{
	struct uffdio_range range = { (uintptr_t)start, t->granule };
	int r = provide(t, start, true);

	/* A failed COPY or CONTINUE wakes no one, and a vCPU's thread never wakes anyone. */
	if (r == -EEXIST)
		r = ioctl(t->uffd, UFFDIO_WAKE, &range) ? -errno : 0;
	return r;
}

int populate(struct test_vm *t, char *hva)
{
	int r;

	/* Not _READ: it accepts a page that KVM cannot use. */
	do {
		r = madvise(granule_of(t, hva), t->granule, MADV_POPULATE_WRITE) ? -errno : 0;
	} while (r == -EINTR || r == -EAGAIN);
	return r;
}

/* Returns true to the one vCPU that has to fetch; returns to the others after the fetch. */
static bool claim(struct test_vm *t, char *start)
{
	uint8_t *state = &t->fetched[(start - t->hva) / t->granule];
	uint8_t seen = NOT_FETCHED;

	if (__atomic_compare_exchange_n(state, &seen, FETCHING, false, __ATOMIC_ACQ_REL,
					__ATOMIC_ACQUIRE))
		return true;
	while (__atomic_load_n(state, __ATOMIC_ACQUIRE) != FETCHED)
		sched_yield();
	return false;
}

static void fetched(struct test_vm *t, char *start)
{
	__atomic_store_n(&t->fetched[(start - t->hva) / t->granule], FETCHED, __ATOMIC_RELEASE);
}

bool arrive(struct test_vm *t, char *hva, const void *data)
{
	char *start = granule_of(t, hva);
	uint8_t seen = NOT_FETCHED;
	int r;

	if (!__atomic_compare_exchange_n(&t->fetched[(start - t->hva) / t->granule], &seen, FETCHING, false,
					 __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
		return false;
	memcpy(t->alias + (start - t->hva), data, t->granule);
	/* In this order: a thread that waits for the content provides it too, or is woken. */
	fetched(t, start);
	r = provide_and_wake(t, start);
	TEST_ASSERT(!r, "providing %p should work, not fail with %s", start, strerror(-r));
	return true;
}

void wait_until_fetched(struct test_vm *t)
{
	size_t i, n = t->pages * t->page_size / t->granule;

	for (i = 0; i < n; i++)
		while (__atomic_load_n(&t->fetched[i], __ATOMIC_ACQUIRE) != FETCHED)
			sched_yield();
}

/* The address that the last exit wants memory for.  It must have been such an exit. */
static char *fault_hva(struct test_vm *t, struct kvm_vcpu *vcpu, int error)
{
	struct kvm_run *run = vcpu->run;
	char *hva;

	/* Not TEST_ASSERT(), which evaluates its message each time: the benchmark counts that. */
	if (error != -EFAULT || run->exit_reason != KVM_EXIT_MEMORY_FAULT)
		TEST_FAIL("only EFAULT with MEMORY_FAULT can be resolved, not %d, exit reason %u (%s)",
			  error, run->exit_reason, exit_reason_str(run->exit_reason));
	TEST_ASSERT(!(run->memory_fault.flags & KVM_MEMORY_EXIT_FLAG_PRIVATE),
		    "no memory here is private");
	hva = addr_gpa2hva(t->vm, run->memory_fault.gpa);
	/* @t may be a part of the slot, with a userfaultfd of its own. */
	TEST_ASSERT(hva >= t->hva && hva < t->hva + t->pages * t->page_size,
		    "gpa 0x%llx is not in the slot", run->memory_fault.gpa);

	if (t->repeats[vcpu->id].gpa != run->memory_fault.gpa)
		t->repeats[vcpu->id].times = 0;
	t->repeats[vcpu->id].gpa = run->memory_fault.gpa;
	TEST_ASSERT(t->repeats[vcpu->id].times++ < MAX_REPEATS,
		    "gpa 0x%llx faults for ever", run->memory_fault.gpa);
	return hva;
}

bool resolve(struct test_vm *t, struct kvm_vcpu *vcpu, int error)
{
	char *start = granule_of(t, fault_hva(t, vcpu, error));
	bool mine = claim(t, start);
	int r = -EEXIST;

	if (mine && t->fetch)
		t->fetch(t, start);

	/* A page that was fetched and zapped again is in the page cache, or it is lost. */
	if (mine || t->uffd_mode & UFFDIO_REGISTER_MODE_MINOR)
		r = provide(t, start, false);
	if (mine)
		fetched(t, start);
	/*
	 * Another thread provided it.  It may be unmapped again, or not be writable, so
	 * ask for a writable mapping.
	 */
	if (r == -EEXIST)
		r = populate(t, start);
	if (r)
		TEST_FAIL("providing %p should work, not fail with %s", start, strerror(-r));
	return mine;
}

/* --- readers --- */

/* Serve one message, if there still is one. */
static void serve(struct reader *r)
{
	struct uffd_msg msg;
	char *start;
	int error;

	if (read(r->t->uffd, &msg, sizeof(msg)) != sizeof(msg))
		return;
	TEST_ASSERT(msg.event == UFFD_EVENT_PAGEFAULT, "only page faults are expected, not %u", msg.event);
	r->last = msg.arg.pagefault.address;
	r->task = msg.arg.pagefault.feat.ptid;
	/* Before the wake-up: the sleeper may read this count at once. */
	__atomic_add_fetch(&r->faults, 1, __ATOMIC_SEQ_CST);
	start = granule_of(r->t, (char *)r->last);
	if (r->t->fetch && claim(r->t, start)) {
		r->t->fetch(r->t, start);
		fetched(r->t, start);
	}
	error = provide_and_wake(r->t, start);
	TEST_ASSERT(!error, "serving 0x%lx should work, not fail with %s", r->last, strerror(-error));
}

static void *reader_main(void *arg)
{
	struct reader *r = arg;
	struct pollfd p[] = {
		{ .fd = r->t->uffd, .events = POLLIN },
		{ .fd = r->stop[0], .events = POLLIN },
	};

	for (;;) {
		TEST_ASSERT(poll(p, ARRAY_SIZE(p), -1) > 0, "poll() should work");
		if (p[0].revents & POLLIN)
			serve(r);
		else if (p[1].revents)
			return NULL;
	}
}

void reader_start(struct reader *r, struct test_vm *t)
{
	*r = (struct reader){ .t = t };
	TEST_ASSERT(!pipe(r->stop), "pipe() should work");
	TEST_ASSERT(!pthread_create(&r->thread, NULL, reader_main, r), "pthread_create() should work");
}

void reader_stop(struct reader *r)
{
	TEST_ASSERT(write(r->stop[1], "", 1) == 1, "the reader should be told to stop");
	pthread_join(r->thread, NULL);
	close(r->stop[0]);
	close(r->stop[1]);
}
