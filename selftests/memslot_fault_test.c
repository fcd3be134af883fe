// SPDX-License-Identifier: GPL-2.0
/*
 * What a vCPU's access to memory does, with and without KVM_MEM_ABSENT_MAPPING_FAULT:
 * which accesses leave KVM_RUN, what the exit says, and that the guest goes on with
 * the right contents once the page is there.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "harness.h"

#define FLAG	KVM_MEM_ABSENT_MAPPING_FAULT
#define PAGES	16

static const char * const access_names[] = {
	[ACCESS_READ] = "read", [ACCESS_WRITE] = "write", [ACCESS_FETCH] = "fetch",
};

/* What an access to a page of write_page() gives the guest. */
static uint64_t expected(enum access access, uint64_t gpa, uint64_t offset)
{
	if (access == ACCESS_READ)
		return fetch_code(gpa);
	return access == ACCESS_FETCH ? page_value(gpa) : TEST_GVA + offset;
}

/* The vCPU does @access to @page and goes on at once. */
static void access_completes(struct test_vm *t, enum access access, size_t page)
{
	uint64_t value, offset = page * t->page_size;

	request(t, 0, access, offset);
	value = run_to_completion(t, 0);
	TEST_ASSERT(value == expected(access, page_gpa(t, page), offset),
		    "the guest's %s of page %zu should give 0x%lx, not 0x%lx", access_names[access],
		    page, expected(access, page_gpa(t, page), offset), value);
	if (access == ACCESS_WRITE)
		TEST_ASSERT(*(uint64_t *)page_hva(t, page) == value,
			    "what the guest wrote should be in memory");
}

/* The vCPU does @access to @page, exits, and goes on once the page is resolved. */
static void access_exits(struct test_vm *t, enum access access, size_t page)
{
	request(t, 0, access, page * t->page_size);
	run_to_memory_fault(t, 0, page);
	TEST_ASSERT(resolve(t, t->vcpus[0]), "page %zu should not have been provided before", page);
	access_completes(t, access, page);
}

/* Without the flag nothing changes: KVM resolves what it can.  Also on the base. */
CASE(absent_without_flag)
{
	struct test_vm t = test_vm_create(1, VM_MEM_SRC_SHMEM, PAGES, 0);
	enum access access;

	fill_page_cache(&t);
	for (access = ACCESS_READ; access <= ACCESS_FETCH; access++)
		access_completes(&t, access, access);
	test_vm_free(&t);
}

static void absent_exits(enum access access, uint32_t more_flags)
{
	struct test_vm t;
	struct reader r;
	size_t page;

	REQUIRE_FLAG();
	t = test_vm_create(1, VM_MEM_SRC_SHMEM, PAGES, FLAG | more_flags);
	fill_page_cache(&t);
	uffd_register(&t, UFFDIO_REGISTER_MODE_MINOR);
	/* So that a kernel that sleeps there fails the case at once. */
	reader_start(&r, &t);
	for (page = 0; page < PAGES; page++)
		access_exits(&t, access, page);
	/* All are present now: no access exits any more. */
	for (page = 0; page < PAGES; page++)
		access_completes(&t, access, page);
	reader_stop(&r);
	TEST_ASSERT(!r.faults, "userfaultfd should not hear of a vCPU's access, but of %lu", r.faults);
	test_vm_free(&t);
}

CASE(absent_read)
{
	absent_exits(ACCESS_READ, 0);
}

CASE(absent_write)
{
	absent_exits(ACCESS_WRITE, 0);
}

CASE(absent_fetch)
{
	absent_exits(ACCESS_FETCH, 0);
}

/* Post-copy can meet dirty logging: neither flag takes anything from the other. */
CASE(absent_write_logged)
{
	absent_exits(ACCESS_WRITE, KVM_MEM_LOG_DIRTY_PAGES);
}

/* MISSING faults are resolved by UFFDIO_COPY, of contents that never were in memory. */
CASE(absent_missing)
{
	struct test_vm t;
	struct reader r;

	REQUIRE_FLAG();
	t = test_vm_create(1, VM_MEM_SRC_ANONYMOUS, PAGES, FLAG);
	uffd_register(&t, UFFDIO_REGISTER_MODE_MISSING);
	write_page(t.source, page_gpa(&t, 5));
	reader_start(&r, &t);
	access_exits(&t, ACCESS_READ, 5);
	reader_stop(&r);
	TEST_ASSERT(!r.faults, "userfaultfd should not hear of a vCPU's access, but of %lu", r.faults);
	test_vm_free(&t);
}

/* The flag must not cost an exit where memory is mapped, whatever the access. */
CASE(present_no_exit)
{
	struct test_vm t;
	enum access access;
	size_t page;

	REQUIRE_FLAG();
	t = test_vm_create(1, VM_MEM_SRC_ANONYMOUS, PAGES, FLAG);
	for (page = 0; page < PAGES; page++)
		write_page(page_hva(&t, page), page_gpa(&t, page));
	for (access = ACCESS_READ; access <= ACCESS_FETCH; access++)
		access_completes(&t, access, access);
	test_vm_free(&t);
}

/* An exit repeats as long as nothing changes, and always says the same. */
CASE(exit_repeats)
{
	struct test_vm t;
	int i;

	REQUIRE_FLAG();
	t = test_vm_create(1, VM_MEM_SRC_SHMEM, PAGES, FLAG);
	fill_page_cache(&t);
	uffd_register(&t, UFFDIO_REGISTER_MODE_MINOR);
	request(&t, 0, ACCESS_READ, 3 * t.page_size);
	for (i = 0; i < 5; i++)
		run_to_memory_fault(&t, 0, 3);
	TEST_ASSERT(resolve(&t, t.vcpus[0]), "the page should not have been provided before");
	access_completes(&t, ACCESS_READ, 3);
	test_vm_free(&t);
}

/* The page that was accessed is reported, wherever in the page the access was. */
CASE(exit_page_offset)
{
	struct test_vm t;

	REQUIRE_FLAG();
	t = test_vm_create(1, VM_MEM_SRC_SHMEM, PAGES, FLAG);
	fill_page_cache(&t);
	uffd_register(&t, UFFDIO_REGISTER_MODE_MINOR);
	request(&t, 0, ACCESS_READ, 8 * t.page_size - 8);
	run_to_memory_fault(&t, 0, 7);
	request(&t, 0, ACCESS_READ, 8 * t.page_size + 8);
	TEST_ASSERT(resolve(&t, t.vcpus[0]), "page 7 should not have been provided before");
	run_to_completion(&t, 0);
	run_to_memory_fault(&t, 0, 8);
	test_vm_free(&t);
}

/* Also in a huge page: the page that was accessed, not the start of the block. */
CASE(exit_page_hugetlb)
{
	struct test_vm t;
	size_t pages;

	REQUIRE_FLAG();
	pages = 2 * get_backing_src_pagesz(VM_MEM_SRC_SHARED_HUGETLB) / getpagesize();
	t = test_vm_create(1, VM_MEM_SRC_SHARED_HUGETLB, pages, FLAG);
	fill_page_cache(&t);
	uffd_register(&t, UFFDIO_REGISTER_MODE_MINOR);
	access_exits(&t, ACCESS_READ, pages / 2 + 3);
	/* One UFFDIO_CONTINUE provided all of the huge page, and nothing beyond. */
	access_completes(&t, ACCESS_READ, pages - 1);
	access_exits(&t, ACCESS_WRITE, pages / 2 - 1);
	test_vm_free(&t);
}

/*
 * The exit does not depend on the flag: a lookup that fails the slow way is annotated
 * too, and the vCPU can go on once userspace has mended its mapping.
 */
CASE(annotated_without_flag)
{
	struct test_vm t;

	REQUIRE_FLAG();
	t = test_vm_create(1, VM_MEM_SRC_ANONYMOUS, PAGES, 0);
	write_page(page_hva(&t, 2), page_gpa(&t, 2));
	TEST_ASSERT(!mprotect(t.hva, PAGES * t.page_size, PROT_NONE), "mprotect() should work");
	request(&t, 0, ACCESS_READ, 2 * t.page_size);
	run_to_memory_fault(&t, 0, 2);
	TEST_ASSERT(!mprotect(t.hva, PAGES * t.page_size, PROT_READ | PROT_WRITE),
		    "mprotect() should work");
	access_completes(&t, ACCESS_READ, 2);
	test_vm_free(&t);
}

/* A page that is present but not writable exits, even for a read; documented. */
CASE(zero_page)
{
	struct test_vm t;

	REQUIRE_FLAG();
	t = test_vm_create(1, VM_MEM_SRC_ANONYMOUS, PAGES, FLAG);
	TEST_ASSERT(!madvise(t.hva, t.page_size, MADV_POPULATE_READ), "madvise() should work");
	request(&t, 0, ACCESS_READ, 0);
	run_to_memory_fault(&t, 0, 0);
	/* Reading it once more is no cure, as documented; populating it to write is. */
	TEST_ASSERT(!madvise(t.hva, t.page_size, MADV_POPULATE_READ), "madvise() should work");
	run_to_memory_fault(&t, 0, 0);
	TEST_ASSERT(!madvise(t.hva, t.page_size, MADV_POPULATE_WRITE), "madvise() should work");
	TEST_ASSERT(!run_to_completion(&t, 0), "the guest should read zero");
	test_vm_free(&t);
}

/* Without the flag, userfaultfd serves the vCPU.  Also on the base. */
CASE(uffd_without_flag)
{
	struct test_vm t = test_vm_create(1, VM_MEM_SRC_SHMEM, PAGES, 0);
	struct reader r;

	fill_page_cache(&t);
	uffd_register(&t, UFFDIO_REGISTER_MODE_MINOR);
	reader_start(&r, &t);
	access_completes(&t, ACCESS_READ, 1);
	access_completes(&t, ACCESS_WRITE, 2);
	access_completes(&t, ACCESS_FETCH, 3);
	reader_stop(&r);
	TEST_ASSERT(r.faults == 3, "userfaultfd should hear of each access, not of %lu", r.faults);
	test_vm_free(&t);
}

/*
 * KVM's own access to a flagged slot, here to write steal time, cannot exit: it still
 * goes to userfaultfd, and completes.
 */
CASE(uffd_kvm_access)
{
	struct test_vm t;
	struct reader r;

	REQUIRE_FLAG();
	t = test_vm_create(1, VM_MEM_SRC_SHMEM, PAGES, FLAG);
	fill_page_cache(&t);
	uffd_register(&t, UFFDIO_REGISTER_MODE_MINOR);
	reader_start(&r, &t);
	request_steal_time(&t, 0, page_gpa(&t, 4));
	request(&t, 0, ACCESS_NONE, 0);
	run_to_completion(&t, 0);
	reader_stop(&r);
	TEST_ASSERT(r.faults == 1 && (char *)r.last == page_hva(&t, 4),
		    "userfaultfd should hear of KVM's access to page 4 once, not %lu times, last at page %ld",
		    r.faults, ((char *)r.last - t.hva) / (long)t.page_size);
	test_vm_free(&t);
}

/* The flag can be set on a live slot: what was resolved by KVM now exits. */
static void toggle_on(enum ioctl_version version)
{
	struct test_vm t;

	REQUIRE_FLAG();
	t = test_vm_create(1, VM_MEM_SRC_SHMEM, PAGES, 0);
	fill_page_cache(&t);
	access_completes(&t, ACCESS_WRITE, 0);
	uffd_register(&t, UFFDIO_REGISTER_MODE_MINOR);
	test_vm_set_flags(&t, version, FLAG);
	access_exits(&t, ACCESS_WRITE, 1);
	access_completes(&t, ACCESS_WRITE, 0);
	test_vm_free(&t);
}

CASE(toggle_on_v1)
{
	toggle_on(V1);
}

CASE(toggle_on_v2)
{
	toggle_on(V2);
}

/* And cleared: a vCPU that has exited goes on without anyone providing the page. */
static void toggle_off(enum ioctl_version version)
{
	struct test_vm t;

	REQUIRE_FLAG();
	t = test_vm_create(1, VM_MEM_SRC_SHMEM, PAGES, FLAG);
	fill_page_cache(&t);
	request(&t, 0, ACCESS_READ, 6 * t.page_size);
	run_to_memory_fault(&t, 0, 6);
	test_vm_set_flags(&t, version, 0);
	access_completes(&t, ACCESS_READ, 6);
	access_completes(&t, ACCESS_FETCH, 7);
	test_vm_free(&t);
}

CASE(toggle_off_v1)
{
	toggle_off(V1);
}

CASE(toggle_off_v2)
{
	toggle_off(V2);
}

/* A slot that moves away and back takes its flag, or the loss of it, along. */
CASE(toggle_by_moving)
{
	const uint64_t elsewhere = TEST_GPA + (1ull << 28);
	struct test_vm t;

	REQUIRE_FLAG();
	t = test_vm_create(1, VM_MEM_SRC_SHMEM, PAGES, 0);
	fill_page_cache(&t);
	uffd_register(&t, UFFDIO_REGISTER_MODE_MINOR);
	vm_set_user_memory_region(t.vm, TEST_SLOT, 0, elsewhere, PAGES * t.page_size, t.hva);
	vm_set_user_memory_region(t.vm, TEST_SLOT, FLAG, TEST_GPA, PAGES * t.page_size, t.hva);
	access_exits(&t, ACCESS_READ, 3);
	vm_set_user_memory_region(t.vm, TEST_SLOT, FLAG, elsewhere, PAGES * t.page_size, t.hva);
	vm_set_user_memory_region(t.vm, TEST_SLOT, 0, TEST_GPA, PAGES * t.page_size, t.hva);
	close(t.uffd);
	t.uffd = -1;
	access_completes(&t, ACCESS_READ, 4);
	test_vm_free(&t);
}

/* How often the vCPU left the guest while writing to every page. */
static uint64_t exits_of_writes(struct test_vm *t)
{
	uint64_t before = vcpu_exits(t->vcpus[0]);
	size_t page;

	for (page = 0; page < t->pages; page++)
		access_completes(t, ACCESS_WRITE, page);
	return vcpu_exits(t->vcpus[0]) - before;
}

/*
 * Toggling the flag while dirty logging is on leaves mappings alone: the guest can
 * write to what it has dirtied before without faulting again.  A fault per page would
 * double the exits, of which each request takes one for its ucall.
 */
CASE(toggle_keeps_mappings)
{
	const uint32_t log = KVM_MEM_LOG_DIRTY_PAGES;
	unsigned long dirty = 0;
	struct test_vm t;
	uint64_t settled, toggled;

	REQUIRE_FLAG();
	t = test_vm_create(1, VM_MEM_SRC_ANONYMOUS, 64, log);
	exits_of_writes(&t);
	settled = exits_of_writes(&t);
	test_vm_set_flags(&t, V2, log | FLAG);
	test_vm_set_flags(&t, V2, log);
	toggled = exits_of_writes(&t);
	TEST_ASSERT(toggled < settled + t.pages / 2,
		    "64 writes took %lu exits before the flag was toggled, and %lu after",
		    settled, toggled);
	kvm_vm_get_dirty_log(t.vm, TEST_SLOT, &dirty);
	TEST_ASSERT(dirty == ~0ul, "all 64 pages should be in the dirty log, not 0x%lx", dirty);
	test_vm_free(&t);
}

/* Two vCPUs exit for one page: one provides it, the other finds it, both go on. */
CASE(two_vcpus_one_page)
{
	struct test_vm t;
	int vcpu;

	REQUIRE_FLAG();
	t = test_vm_create(2, VM_MEM_SRC_SHMEM, PAGES, FLAG);
	fill_page_cache(&t);
	uffd_register(&t, UFFDIO_REGISTER_MODE_MINOR);
	for (vcpu = 0; vcpu < 2; vcpu++) {
		request(&t, vcpu, ACCESS_READ, 9 * t.page_size);
		run_to_memory_fault(&t, vcpu, 9);
	}
	TEST_ASSERT(resolve(&t, t.vcpus[0]), "the first vCPU should provide the page");
	TEST_ASSERT(!resolve(&t, t.vcpus[1]), "the second vCPU should find it provided");
	for (vcpu = 0; vcpu < 2; vcpu++)
		TEST_ASSERT(run_to_completion(&t, vcpu) == fetch_code(page_gpa(&t, 9)),
			    "vCPU %d should read what was provided", vcpu);
	test_vm_free(&t);
}

struct runner {
	struct test_vm *t;
	pthread_barrier_t *barrier;
	int vcpu;
	pthread_t thread;
	uint64_t provided;
};

static void *run_all_pages(void *arg)
{
	struct runner *r = arg;
	struct kvm_vcpu *vcpu = r->t->vcpus[r->vcpu];
	struct ucall uc;
	size_t page;
	int error;

	for (page = 0; page < r->t->pages; page++) {
		request(r->t, r->vcpu, ACCESS_READ, page * r->t->page_size);
		/* All at once for the same page, each time. */
		pthread_barrier_wait(r->barrier);
		while ((error = run_vcpu(vcpu))) {
			check_memory_fault(r->t, r->vcpu, error, page);
			r->provided += resolve(r->t, vcpu);
		}
		TEST_ASSERT(get_ucall(vcpu, &uc) == UCALL_SYNC &&
			    uc.args[1] == fetch_code(page_gpa(r->t, page)),
			    "vCPU %d should read the contents of page %zu, not 0x%lx", r->vcpu, page,
			    uc.args[1]);
	}
	return NULL;
}

/* vCPUs race for the same pages: each page is provided exactly once, nobody hangs. */
CASE(vcpus_race)
{
	struct runner runners[2] = {};
	pthread_barrier_t barrier;
	struct test_vm t;
	uint64_t provided = 0;
	int i;

	REQUIRE_FLAG();
	t = test_vm_create(ARRAY_SIZE(runners), VM_MEM_SRC_SHMEM, 256, FLAG);
	fill_page_cache(&t);
	uffd_register(&t, UFFDIO_REGISTER_MODE_MINOR);
	pthread_barrier_init(&barrier, NULL, ARRAY_SIZE(runners));
	for (i = 0; i < ARRAY_SIZE(runners); i++) {
		runners[i] = (struct runner){ .t = &t, .barrier = &barrier, .vcpu = i };
		TEST_ASSERT(!pthread_create(&runners[i].thread, NULL, run_all_pages, &runners[i]),
			    "pthread_create() should work");
	}
	for (i = 0; i < ARRAY_SIZE(runners); i++) {
		pthread_join(runners[i].thread, NULL);
		provided += runners[i].provided;
	}
	TEST_ASSERT(provided == t.pages, "%zu pages should be provided once each, not %lu times",
		    t.pages, provided);
	test_vm_free(&t);
}

#ifdef __x86_64__
/*
 * A lookup that KVM does for itself, kvm_vcpu_map() of the operand of VMSAVE, cannot
 * exit either: it waits for userfaultfd, and the guest gets no exception.
 */
CASE(kvm_map_waits)
{
	struct test_vm t;
	struct reader r;

	REQUIRE_FLAG();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
	t = test_vm_create(1, VM_MEM_SRC_SHMEM, PAGES, FLAG);
	fill_page_cache(&t);
	uffd_register(&t, UFFDIO_REGISTER_MODE_MINOR);
	reader_start(&r, &t);
	request(&t, 0, ACCESS_BY_KVM, 2 * t.page_size);
	run_to_completion(&t, 0);
	reader_stop(&r);
	TEST_ASSERT(r.faults == 1, "userfaultfd should hear of it once, not %lu times", r.faults);
	test_vm_free(&t);
}

/*
 * KVM_PRE_FAULT_MEMORY asks KVM to wait for memory, flag or no flag: it reaches
 * userfaultfd.  It is not KVM_RUN, and leaves kvm_run alone even if it fails.
 */
CASE(pre_fault_waits)
{
	struct kvm_pre_fault_memory range = { .gpa = TEST_GPA, .size = getpagesize() };
	struct test_vm t;
	struct reader r;

	REQUIRE_FLAG();
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY));
	t = test_vm_create(1, VM_MEM_SRC_SHMEM, PAGES, FLAG);
	fill_page_cache(&t);
	uffd_register(&t, UFFDIO_REGISTER_MODE_MINOR);
	reader_start(&r, &t);
	TEST_ASSERT(!__vcpu_ioctl(t.vcpus[0], KVM_PRE_FAULT_MEMORY, &range),
		    "KVM_PRE_FAULT_MEMORY should populate the page, errno %d", errno);
	reader_stop(&r);
	TEST_ASSERT(r.faults == 1, "userfaultfd should hear of it once, not %lu times", r.faults);

	TEST_ASSERT(!mprotect(t.hva, PAGES * t.page_size, PROT_NONE), "mprotect() should work");
	range = (struct kvm_pre_fault_memory){ .gpa = page_gpa(&t, 1), .size = getpagesize() };
	t.vcpus[0]->run->exit_reason = KVM_EXIT_IO;
	TEST_ASSERT(__vcpu_ioctl(t.vcpus[0], KVM_PRE_FAULT_MEMORY, &range) == -1 && errno == EFAULT,
		    "KVM_PRE_FAULT_MEMORY should fail with EFAULT, errno %d", errno);
	TEST_ASSERT(t.vcpus[0]->run->exit_reason == KVM_EXIT_IO, "kvm_run should be left alone");
	test_vm_free(&t);
}
#endif
