// SPDX-License-Identifier: GPL-2.0
/*
 * Races between vCPUs' exits, userfaultfd, and changes of the memory or of the memslot.
 * First come races in a forced order, then stress: random accesses by two vCPUs while
 * another thread disturbs memory or slot.  Nobody may hang, each exit must have a cause
 * that permits it, and every access must find the right contents.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"

#define FLAG	KVM_MEM_ABSENT_MAPPING_FAULT
#define PAGES	16
#define VCPUS	2

static struct test_vm create(int vcpus, size_t pages, uint32_t flags)
{
	struct test_vm t = test_vm_create(vcpus, VM_MEM_SRC_SHMEM, pages, flags);

	fill_page_cache(&t);
	uffd_register(&t, UFFDIO_REGISTER_MODE_MINOR);
	return t;
}

/* --- races in a forced order --- */

static void *read_byte(void *address)
{
	return (void *)(uintptr_t)READ_ONCE(*(uint8_t *)address);
}

/* Returns once a thread sleeps on the userfaultfd. */
static void wait_for_sleeper(struct test_vm *t)
{
	struct pollfd p = { .fd = t->uffd, .events = POLLIN };

	TEST_ASSERT(poll(&p, 1, -1) == 1, "poll() should work");
}

static pthread_t start_thread(void *(*function)(void *), void *argument)
{
	pthread_t thread;

	TEST_ASSERT(!pthread_create(&thread, NULL, function, argument), "pthread_create() should work");
	return thread;
}

/* Two vCPUs exit for one page: one provides it, the other finds it, both go on. */
CASE(two_vcpus_one_page)
{
	struct test_vm t;
	int vcpu;

	REQUIRE_FLAG();
	t = create(VCPUS, PAGES, FLAG);
	for (vcpu = 0; vcpu < VCPUS; vcpu++) {
		request(&t, vcpu, ACCESS_READ, 9 * t.page_size);
		run_to_memory_fault(&t, vcpu, 9);
	}
	TEST_ASSERT(resolve(&t, t.vcpus[0], -EFAULT), "the first vCPU should provide the page");
	TEST_ASSERT(!resolve(&t, t.vcpus[1], -EFAULT), "the second vCPU should find it provided");
	for (vcpu = 0; vcpu < VCPUS; vcpu++)
		TEST_ASSERT(run_to_completion(&t, vcpu) == fetch_code(page_gpa(&t, 9)),
			    "vCPU %d should read what was provided", vcpu);
	test_vm_free(&t);
}

/* Two vCPUs exit for two pages of one huge page, which one of them provides. */
CASE(two_vcpus_huge_page)
{
	struct test_vm t;
	size_t pages;
	int vcpu;

	REQUIRE_FLAG();
	pages = get_backing_src_pagesz(VM_MEM_SRC_SHARED_HUGETLB) / getpagesize();
	t = test_vm_create(VCPUS, VM_MEM_SRC_SHARED_HUGETLB, pages, FLAG);
	fill_page_cache(&t);
	uffd_register(&t, UFFDIO_REGISTER_MODE_MINOR);
	for (vcpu = 0; vcpu < VCPUS; vcpu++) {
		request(&t, vcpu, ACCESS_READ, (7 + 100 * vcpu) * t.page_size);
		run_to_memory_fault(&t, vcpu, 7 + 100 * vcpu);
	}
	for (vcpu = 0; vcpu < VCPUS; vcpu++)
		TEST_ASSERT(resolve(&t, t.vcpus[vcpu], -EFAULT) == !vcpu, "the first vCPU should provide the page");
	for (vcpu = 0; vcpu < VCPUS; vcpu++)
		TEST_ASSERT(run_to_completion(&t, vcpu) == fetch_code(page_gpa(&t, 7 + 100 * vcpu)),
			    "vCPU %d should read what was provided", vcpu);
	test_vm_free(&t);
}

/*
 * A thread sleeps on a page.  A vCPU then resolves the page and wakes no one.  The reader
 * finds it provided, and must still wake the thread.
 */
CASE(sleeper_is_woken)
{
	struct test_vm t;
	struct reader r;
	pthread_t sleeper;
	void *byte;

	REQUIRE_FLAG();
	t = create(1, PAGES, FLAG);
	sleeper = start_thread(read_byte, page_hva(&t, 5));
	wait_for_sleeper(&t);
	access_exits(&t, ACCESS_READ, 5);
	reader_start(&r, &t);
	pthread_join(sleeper, &byte);
	reader_stop(&r);
	TEST_ASSERT(r.faults == 1 && (uintptr_t)byte == (uint8_t)fetch_code(page_gpa(&t, 5)),
		    "the thread should have been woken once, not %lu times, and have read the page", r.faults);
	test_vm_free(&t);
}

static struct test_vm *populated;

static void *populate_page(void *hva)
{
	return (void *)(intptr_t)populate(populated, hva);
}

/* Populating a page before its fetch sleeps like any access, until a reader wakes it. */
CASE(populate_is_woken)
{
	struct test_vm t;
	struct reader r;
	pthread_t sleeper;
	void *error;

	REQUIRE_FLAG();
	t = create(1, PAGES, FLAG);
	populated = &t;
	request(&t, 0, ACCESS_READ, 5 * t.page_size);
	run_to_memory_fault(&t, 0, 5);
	sleeper = start_thread(populate_page, page_hva(&t, 5));
	wait_for_sleeper(&t);
	run_to_memory_fault(&t, 0, 5);
	reader_start(&r, &t);
	pthread_join(sleeper, &error);
	reader_stop(&r);
	TEST_ASSERT(!error, "populating should work, not fail with %ld", (intptr_t)error);
	access_completes(&t, ACCESS_READ, 5);
	test_vm_free(&t);
}

/* A page is provided, but is gone again before the vCPU uses it. */
CASE(gone_before_entry)
{
	struct test_vm t;

	REQUIRE_FLAG();
	t = create(1, PAGES, FLAG);
	request(&t, 0, ACCESS_READ, 5 * t.page_size);
	run_to_memory_fault(&t, 0, 5);
	TEST_ASSERT(resolve(&t, t.vcpus[0], -EFAULT), "the page should not have been provided before");
	TEST_ASSERT(!madvise(page_hva(&t, 5), t.page_size, MADV_DONTNEED), "madvise() should work");
	run_to_memory_fault(&t, 0, 5);
	TEST_ASSERT(!resolve(&t, t.vcpus[0], -EFAULT), "the page should not be fetched twice");
	access_completes(&t, ACCESS_READ, 5);

	/* And after the use: KVM's mapping goes away with the page. */
	TEST_ASSERT(!madvise(page_hva(&t, 5), t.page_size, MADV_DONTNEED), "madvise() should work");
	request(&t, 0, ACCESS_READ, 5 * t.page_size);
	run_to_memory_fault(&t, 0, 5);
	test_vm_free(&t);
}

/* The flag is cleared while a vCPU is in userspace: its exit is still valid. */
CASE(cleared_during_exit)
{
	struct test_vm t;

	REQUIRE_FLAG();
	t = create(1, PAGES, FLAG);
	request(&t, 0, ACCESS_READ, 5 * t.page_size);
	run_to_memory_fault(&t, 0, 5);
	test_vm_set_flags(&t, V2, 0);
	TEST_ASSERT(resolve(&t, t.vcpus[0], -EFAULT), "the page should not have been provided before");
	access_completes(&t, ACCESS_READ, 5);
	test_vm_free(&t);
}

static void *run_first_vcpu(void *arg)
{
	return (void *)run_to_completion(arg, 0);
}

struct setter {
	struct test_vm *t;
	uint32_t flags;
	pthread_t thread;
	volatile pid_t task;
	volatile bool done;
};

static void *setter_main(void *arg)
{
	struct setter *s = arg;

	s->task = syscall(SYS_gettid);
	test_vm_set_flags(s->t, V2, s->flags);
	s->done = true;
	return NULL;
}

static char state_of(pid_t task)
{
	char path[64], state = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", task);
	f = fopen(path, "r");
	TEST_ASSERT(f && fscanf(f, "%*d (%*[^)]) %c", &state) == 1, "%s should have a state", path);
	fclose(f);
	return state;
}

/* Change the flags in a separate thread.  Returns once the ioctl waits, or has failed to. */
static void start_setter(struct setter *s, struct test_vm *t, uint32_t flags)
{
	*s = (struct setter){ .t = t, .flags = flags };
	s->thread = start_thread(setter_main, s);
	while (!s->done && (!s->task || state_of(s->task) != 'D'))
		usleep(1000);
	/* The ioctl must not return while a vCPU acts on the old value, however long. */
	usleep(10000);
	TEST_ASSERT(!s->done, "the ioctl should wait for the vCPU");
}

/*
 * The flag is set while a vCPU waits in userfaultfd.  The reader serves that access, and
 * once the ioctl has returned no other access waits.
 */
CASE(set_while_waiting)
{
	struct setter setter;
	struct test_vm t;
	struct reader r;
	pthread_t vcpu;
	void *value;

	REQUIRE_FLAG();
	t = create(1, PAGES, 0);
	request(&t, 0, ACCESS_READ, 5 * t.page_size);
	vcpu = start_thread(run_first_vcpu, &t);
	wait_for_sleeper(&t);
	start_setter(&setter, &t, FLAG);
	reader_start(&r, &t);
	pthread_join(vcpu, &value);
	pthread_join(setter.thread, NULL);
	TEST_ASSERT((uintptr_t)value == fetch_code(page_gpa(&t, 5)), "the vCPU should read the page");
	access_exits(&t, ACCESS_READ, 6);
	reader_stop(&r);
	TEST_ASSERT(r.faults == 1, "one access should have waited, not %lu", r.faults);
	test_vm_free(&t);
}

/*
 * The flag is cleared while KVM itself waits on the vCPU's behalf.  So the thread that
 * serves the userfaultfd must not be the one that clears the flag.
 */
CASE(clear_while_waiting)
{
	struct setter setter;
	struct test_vm t;
	struct reader r;
	pthread_t vcpu;

	REQUIRE_FLAG();
	t = create(1, PAGES, FLAG);
	request_steal_time(&t, 0, page_gpa(&t, 4));
	request(&t, 0, ACCESS_NONE, 0);
	vcpu = start_thread(run_first_vcpu, &t);
	wait_for_sleeper(&t);
	start_setter(&setter, &t, 0);
	reader_start(&r, &t);
	pthread_join(vcpu, NULL);
	pthread_join(setter.thread, NULL);
	access_completes(&t, ACCESS_READ, 6);
	reader_stop(&r);
	TEST_ASSERT(r.faults == 2, "KVM, then the vCPU should have waited, not %lu times", r.faults);
	test_vm_free(&t);
}

static void gone_during_exit(uint64_t gpa, uint64_t size)
{
	struct kvm_run *run;
	struct test_vm t;
	int error;

	t = create(1, PAGES, FLAG);
	run = t.vcpus[0]->run;
	request(&t, 0, ACCESS_READ, 5 * t.page_size);
	run_to_memory_fault(&t, 0, 5);
	vm_set_user_memory_region(t.vm, TEST_SLOT, FLAG, gpa, size, t.hva);
	error = run_vcpu(t.vcpus[0]);
	TEST_ASSERT(!error && run->exit_reason == KVM_EXIT_MMIO && run->mmio.phys_addr == page_gpa(&t, 5),
		    "the exit should be MMIO for page 5, not error %d, %s", error, exit_reason_str(run->exit_reason));
	/* The library deletes this slot */
	test_vm_set_flags(&t, V1, FLAG);
	test_vm_free(&t);
}

/* The slot goes away while a vCPU is in userspace: its access is then to no memory. */
CASE(deleted_during_exit)
{
	REQUIRE_FLAG();
	gone_during_exit(TEST_GPA, 0);
	gone_during_exit(TEST_GPA + (1ull << 28), PAGES * getpagesize());
}

/* Without the userfaultfd the flag keeps its meaning, until it is cleared. */
CASE(unregistered_first)
{
	struct test_vm t;

	REQUIRE_FLAG();
	t = create(1, PAGES, FLAG);
	close(t.uffd);
	t.uffd = -1;
	request(&t, 0, ACCESS_READ, 5 * t.page_size);
	run_to_memory_fault(&t, 0, 5);
	TEST_ASSERT(!populate(&t, page_hva(&t, 5)), "populating should work");
	access_completes(&t, ACCESS_READ, 5);
	test_vm_set_flags(&t, V1, 0);
	access_completes(&t, ACCESS_READ, 6);
	test_vm_free(&t);
}

/* Whether KVM annotates a fault where the VMM has mapped nothing at all. */
#ifdef __x86_64__
#define MISSING_VMA_IS_ANNOTATED	true
#elif defined(__aarch64__)
#define MISSING_VMA_IS_ANNOTATED	false
#else
#error "does a missing VMA fill the exit here?"
#endif

/*
 * An EFAULT after an annotated one.  The first exit's data must be gone: a bare second
 * EFAULT must not seem annotated, and an annotated one must have its own data.
 */
CASE(no_stale_exit_reason)
{
	struct test_vm t;
	int r;

	REQUIRE_FLAG();
	t = create(1, PAGES, FLAG);
	request(&t, 0, ACCESS_READ, 5 * t.page_size);
	run_to_memory_fault(&t, 0, 5);
	TEST_ASSERT(!munmap(t.hva, t.pages * t.page_size), "munmap() should work");
	/* As a VMM calls it, no reason preset */
	memset(&t.vcpus[0]->run->memory_fault, 0xa5, sizeof(t.vcpus[0]->run->memory_fault));
	r = __vcpu_run(t.vcpus[0]);
	TEST_ASSERT(r == -1 && errno == EFAULT, "KVM_RUN should fail with EFAULT, not return %d, errno %d", r, errno);
	r = t.vcpus[0]->run->exit_reason;
	if (MISSING_VMA_IS_ANNOTATED)
		check_memory_fault(&t, 0, -EFAULT, 5);
	else
		TEST_ASSERT(r == KVM_EXIT_UNKNOWN, "no reason should be left, not %s", exit_reason_str(r));
	_exit(0);	/* the library would unmap the memory once more */
}

/* --- stress --- */

static int seconds_of_stress(void)
{
	const char *text = getenv("stress");

	return text ? atoi(text) : 1;
}

/* xorshift; each thread has its own, derived from the printed seed. */
static uint64_t seed_of(int thread)
{
	const char *text = getenv("seed");
	uint64_t seed = text ? strtoull(text, NULL, 0) : 1;

	if (!thread)
		printf("seed=%lu\n", seed);
	return (seed + thread) * 0x9e3779b97f4a7c15ull | 1;
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

struct stress;

/* Disturbs memory or slot, again and again, while vCPUs access it. */
typedef void (*disturbance)(struct stress *s, uint64_t random);

struct worker {
	struct stress *s;
	int vcpu;
	pthread_t thread;
	uint64_t random;
	size_t page;		/* that it accesses */
	uint64_t accesses, exits;
	uint64_t emulated;	/* accesses that met a missing slot */
	uint64_t *counts;	/* number of this vCPU's writes to each page */
};

struct stress {
	struct test_vm t;
	disturbance disturb;
	volatile bool stop;
	bool vma_may_be_missing, slot_may_be_missing;
	bool may_not_exit;	/* no page is ever missing, so no access exits */
	bool rarely_exits;	/* only if an access hits a disturbance in the middle */
	struct worker workers[VCPUS];
	uint64_t disturbances;
};

/* Offset in every page where each vCPU counts its own writes */
#define COUNTER(vcpu)	(64 + 8 * (vcpu))

static uint64_t guest_increment(uint64_t gva)
{
	uint64_t value = READ_ONCE(*(uint64_t *)gva) + 1;

	WRITE_ONCE(*(uint64_t *)gva, value);
	return value;
}

/* On arm64 the guest's report is MMIO as well, elsewhere. */
static bool in_slot(struct worker *w, struct kvm_run *run)
{
	return run->exit_reason == KVM_EXIT_MMIO && run->mmio.phys_addr >= TEST_GPA &&
	       run->mmio.phys_addr < page_gpa(&w->s->t, w->s->t.pages);
}

/* Emulate the access to a missing slot: the VMM knows the memory. */
static void emulate(struct worker *w, struct kvm_run *run)
{
	char *memory = w->s->t.alias + (run->mmio.phys_addr - TEST_GPA);

	TEST_ASSERT(w->s->slot_may_be_missing, "the slot is there, but gpa 0x%llx exits as MMIO", run->mmio.phys_addr);
	w->emulated++;
	if (run->mmio.is_write)
		memcpy(memory, run->mmio.data, run->mmio.len);
	else
		memcpy(run->mmio.data, memory, run->mmio.len);
}

static void repair(struct worker *w, struct kvm_vcpu *vcpu, int error)
{
	struct test_vm *t = &w->s->t;
	int r;

	w->exits++;
	if (w->s->vma_may_be_missing && !MISSING_VMA_IS_ANNOTATED &&
	    error == -EFAULT && vcpu->run->exit_reason == KVM_EXIT_UNKNOWN)
		return;
	check_memory_fault(t, w->vcpu, error, w->page);
	TEST_ASSERT(!w->s->may_not_exit, "page %zu is there all the time, and exits", w->page);
	if (t->uffd >= 0) {
		resolve(t, vcpu, error);
		return;
	}
	r = populate(t, t->hva + (vcpu->run->memory_fault.gpa - TEST_GPA));
	TEST_ASSERT(!r || (w->s->vma_may_be_missing && r == -ENOMEM), "populating fails with %d", r);
}

static uint64_t run_repaired(struct worker *w)
{
	struct kvm_vcpu *vcpu = w->s->t.vcpus[w->vcpu];
	int error;

	for (;;) {
		error = run_vcpu(vcpu);
		if (error)
			repair(w, vcpu, error);
		else if (in_slot(w, vcpu->run))
			emulate(w, vcpu->run);
		else
			return completion(&w->s->t, w->vcpu);
	}
}

static void *vcpu_main(void *arg)
{
	struct worker *w = arg;
	struct test_vm *t = &w->s->t;
	uint64_t random, value, want;
	size_t page;

	while (!w->s->stop) {
		random = next_random(&w->random);
		w->page = page = (random >> 8) % t->pages;
		if (random & 1) {
			request(t, w->vcpu, ACCESS_READ, page * t->page_size);
			want = fetch_code(page_gpa(t, page));
		} else {
			request_call(t, w->vcpu, guest_increment, page * t->page_size + COUNTER(w->vcpu));
			want = ++w->counts[page];
		}
		value = run_repaired(w);
		TEST_ASSERT(value == want, "vCPU %d, access %lu, page %zu: 0x%lx instead of 0x%lx",
			    w->vcpu, w->accesses, page, value, want);
		w->accesses++;
	}
	return NULL;
}

static void *disturb_main(void *arg)
{
	struct stress *s = arg;
	uint64_t random = seed_of(VCPUS);

	while (!s->stop) {
		s->disturb(s, next_random(&random));
		s->disturbances++;
	}
	return NULL;
}

/*
 * Whether the race has really run: at the start each page exits once, which is not
 * enough.  A slow machine takes longer; the case's time limit is the bound.
 */
static bool is_enough(struct stress *s)
{
	uint64_t exits = 0, emulated = 0;
	int i;

	for (i = 0; i < VCPUS; i++) {
		if (s->workers[i].accesses < s->t.pages)
			return false;
		exits += s->workers[i].exits;
		emulated += s->workers[i].emulated;
	}
	return s->disturbances && (!s->slot_may_be_missing || emulated) &&
	       (s->may_not_exit || exits > (s->rarely_exits ? 0 : s->t.pages));
}

static void heartbeat(struct stress *s)
{
	int second;

	for (second = 0; second < seconds_of_stress() || !is_enough(s); second++) {
		sleep(1);
		printf("%d s: accesses %lu + %lu, exits %lu + %lu, missing slots %lu + %lu, disturbances %lu\n", second + 1,
		       s->workers[0].accesses, s->workers[1].accesses,
		       s->workers[0].exits, s->workers[1].exits,
		       s->workers[0].emulated, s->workers[1].emulated, s->disturbances);
		fflush(stdout);
	}
}

static void start_vcpus(struct stress *s)
{
	int i;

	for (i = 0; i < VCPUS; i++) {
		s->workers[i] = (struct worker){ .s = s, .vcpu = i, .random = seed_of(i),
						 .counts = calloc(s->t.pages, sizeof(uint64_t)) };
		s->workers[i].thread = start_thread(vcpu_main, &s->workers[i]);
	}
}

/* No write was lost, and no thread was stuck. */
static void finish(struct stress *s)
{
	size_t page;
	int i;

	for (i = 0; i < VCPUS; i++)
		pthread_join(s->workers[i].thread, NULL);
	for (i = 0; i < VCPUS; i++) {
		for (page = 0; page < s->t.pages; page++)
			TEST_ASSERT(*(uint64_t *)(page_hva(&s->t, page) + COUNTER(i)) == s->workers[i].counts[page],
				    "page %zu should have what vCPU %d wrote", page, i);
	}
}

static void run_stress(struct stress *s)
{
	struct reader r;
	pthread_t disturber;

	if (s->t.uffd >= 0)
		reader_start(&r, &s->t);
	start_vcpus(s);
	disturber = start_thread(disturb_main, s);
	heartbeat(s);
	s->stop = true;
	pthread_join(disturber, NULL);
	finish(s);
	if (s->t.uffd >= 0)
		reader_stop(&r);
	test_vm_free(&s->t);
}

/* The flag and dirty logging come and go under running vCPUs; memory comes and goes too. */
static void disturb_flags(struct stress *s, uint64_t random)
{
	size_t page = (random >> 8) % s->t.pages;

	test_vm_set_flags(&s->t, random & 1 ? V1 : V2, (random & 2 ? FLAG : 0) |
			  (random & 4 ? KVM_MEM_LOG_DIRTY_PAGES : 0));
	TEST_ASSERT(!madvise(page_hva(&s->t, page), s->t.page_size, MADV_DONTNEED), "madvise() should work");
}

CASE(race_toggle)
{
	struct stress s = { .disturb = disturb_flags };

	REQUIRE_FLAG();
	s.t = create(VCPUS, PAGES, FLAG);
	run_stress(&s);
}

/* vCPUs, a reader and other threads provide the same pages, which others remove. */
static void disturb_userfaultfd(struct stress *s, uint64_t random)
{
	size_t page = (random >> 8) % s->t.pages;

	if (random & 1)
		TEST_ASSERT(!madvise(page_hva(&s->t, page), s->t.page_size, MADV_DONTNEED), "madvise() should work");
	else
		TEST_ASSERT(READ_ONCE(*(uint64_t *)page_hva(&s->t, page)) == fetch_code(page_gpa(&s->t, page)),
			    "page %zu should have its contents", page);
}

CASE(race_userfaultfd)
{
	struct stress s = { .disturb = disturb_userfaultfd };

	REQUIRE_FLAG();
	s.t = create(VCPUS, PAGES, FLAG);
	run_stress(&s);
}

static void make_slot_anew(struct stress *s, uint64_t random)
{
	vm_set_user_memory_region(s->t.vm, TEST_SLOT, 0, TEST_GPA, 0, s->t.hva);
	test_vm_set_flags(&s->t, V1, random & 1 ? FLAG : 0);
}

static void disturb_slot(struct stress *s, uint64_t random)
{
	size_t page = (random >> 8) % s->t.pages;

	TEST_ASSERT(!madvise(page_hva(&s->t, page), s->t.page_size, MADV_DONTNEED), "madvise() should work");
	make_slot_anew(s, random);
}

CASE(race_delete)
{
	struct stress s = { .disturb = disturb_slot, .slot_may_be_missing = true };

	REQUIRE_FLAG();
	s.t = create(VCPUS, PAGES, FLAG);
	run_stress(&s);
}

/* A slot that is deleted or replaced is no reason to exit: its pages are present. */
CASE(race_delete_present)
{
	struct stress s = { .disturb = make_slot_anew, .slot_may_be_missing = true, .may_not_exit = true };
	size_t page;

	REQUIRE_FLAG();
	s.t = test_vm_create(VCPUS, VM_MEM_SRC_SHMEM, PAGES, FLAG);
	for (page = 0; page < PAGES; page++)
		write_page(page_hva(&s.t, page), page_gpa(&s.t, page));
	run_stress(&s);
}

/* Reserved address space to move the mapping to */
static char *spare;

/* The mapping moves away and back; in between nothing is mapped there. */
static void disturb_mapping(struct stress *s, uint64_t random)
{
	size_t size = s->t.pages * s->t.page_size;
	void *elsewhere = mremap(s->t.hva, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, spare);

	TEST_ASSERT(elsewhere != MAP_FAILED &&
		    mremap(elsewhere, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, s->t.hva) == s->t.hva,
		    "mremap() should work, errno %d", errno);
}

CASE(race_mremap)
{
	struct stress s = { .disturb = disturb_mapping, .vma_may_be_missing = true, .rarely_exits = true };

	REQUIRE_FLAG();
	spare = mmap(NULL, PAGES * getpagesize(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	s.t = test_vm_create(VCPUS, VM_MEM_SRC_SHMEM, PAGES, FLAG);
	fill_page_cache(&s.t);
	run_stress(&s);
}

/* Pages become shared with a child, and so read-only, again and again. */
static void disturb_by_fork(struct stress *s, uint64_t random)
{
	pid_t child = fork();

	TEST_ASSERT(child >= 0, "fork() should work");
	if (!child)
		_exit(0);
	TEST_ASSERT(waitpid(child, NULL, 0) == child, "waitpid() should work");
}

CASE(race_fork)
{
	struct stress s = { .disturb = disturb_by_fork };
	size_t page;

	REQUIRE_FLAG();
	s.t = test_vm_create(VCPUS, VM_MEM_SRC_ANONYMOUS, PAGES, FLAG);
	for (page = 0; page < s.t.pages; page++)
		write_page(page_hva(&s.t, page), page_gpa(&s.t, page));
	run_stress(&s);
}

/* --- accesses that must not exit --- */

static volatile bool stop_zapping;
static volatile unsigned long zaps;

static void *zap_last_page(void *arg)
{
	struct test_vm *t = arg;
	char *last = page_hva(t, t->pages - 1);

	for (; !stop_zapping; zaps++)
		TEST_ASSERT(!madvise(last, t->page_size, MADV_POPULATE_WRITE) &&
			    !madvise(last, t->page_size, MADV_DONTNEED), "madvise() should work");
	return NULL;
}

/*
 * Pages that stay mapped do not exit.  An invalidation elsewhere makes KVM look each of
 * them up again now and then, but KVM retries by itself.
 */
CASE(present_despite_invalidation)
{
	pthread_t zapper;
	unsigned long before;
	struct test_vm t;
	size_t page;
	int round;

	REQUIRE_FLAG();
	t = test_vm_create(1, VM_MEM_SRC_ANONYMOUS, 128, FLAG);
	for (page = 0; page < t.pages; page++)
		write_page(page_hva(&t, page), page_gpa(&t, page));
	zapper = start_thread(zap_last_page, &t);
	for (round = 0; round < 4; round += zaps > before) {
		before = zaps;
		for (page = 0; page < t.pages - 1; page++)
			access_completes(&t, ACCESS_READ, page);
		/* A slot made anew has no mappings left. */
		vm_set_user_memory_region(t.vm, TEST_SLOT, 0, TEST_GPA, 0, t.hva);
		test_vm_set_flags(&t, V1, FLAG);
	}
	stop_zapping = true;
	pthread_join(zapper, NULL);
	test_vm_free(&t);
}

/* --- one page, all at once --- */

struct runner {
	struct test_vm *t;
	pthread_barrier_t *barrier;
	int vcpu;
	pthread_t thread;
	uint64_t exits, provided;
};

static void *run_all_pages(void *arg)
{
	struct runner *r = arg;
	struct kvm_vcpu *vcpu = r->t->vcpus[r->vcpu];
	uint64_t exits;
	size_t page;
	int error;

	for (page = 0; page < r->t->pages; page++) {
		request(r->t, r->vcpu, ACCESS_READ, page * r->t->page_size);
		/* All vCPUs start on the same page at once. */
		pthread_barrier_wait(r->barrier);
		for (exits = 0; (error = run_vcpu(vcpu)); exits++) {
			check_memory_fault(r->t, r->vcpu, error, page);
			/* For every other page, make sure that all of them want to provide it. */
			if (page % 2 && !exits)
				pthread_barrier_wait(r->barrier);
			r->provided += resolve(r->t, vcpu, error);
		}
		r->exits += exits;
		TEST_ASSERT(completion(r->t, r->vcpu) == fetch_code(page_gpa(r->t, page)),
			    "vCPU %d should read the contents of page %zu", r->vcpu, page);
	}
	return NULL;
}

/* vCPUs race for the same pages: each page is provided exactly once, nobody hangs. */
CASE(race_one_page)
{
	struct runner runners[VCPUS] = {};
	pthread_barrier_t barrier;
	struct test_vm t;
	uint64_t provided = 0, exits = 0;
	int i;

	REQUIRE_FLAG();
	t = create(VCPUS, 256, FLAG);
	pthread_barrier_init(&barrier, NULL, VCPUS);
	for (i = 0; i < VCPUS; i++) {
		runners[i] = (struct runner){ .t = &t, .barrier = &barrier, .vcpu = i };
		runners[i].thread = start_thread(run_all_pages, &runners[i]);
	}
	for (i = 0; i < VCPUS; i++) {
		pthread_join(runners[i].thread, NULL);
		provided += runners[i].provided;
		exits += runners[i].exits;
	}
	printf("%lu exits for %zu pages\n", exits, t.pages);
	TEST_ASSERT(provided == t.pages, "%zu pages should be provided once each, not %lu times",
		    t.pages, provided);
	test_vm_free(&t);
}
