// SPDX-License-Identifier: GPL-2.0
/*
 * Accesses of vCPUs to memory, with and without KVM_MEM_ABSENT_MAPPING_FAULT: which
 * ones leave KVM_RUN, the fields of the exit, and that the guest goes on with the right
 * contents once the page is there.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "harness.h"

#define FLAG	KVM_MEM_ABSENT_MAPPING_FAULT
#define PAGES	16

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
	/* With a reader, a kernel that sleeps there fails the case at once. */
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

static bool is_dirty(struct test_vm *t, size_t page)
{
	unsigned long dirty[1] = {};

	kvm_vm_get_dirty_log(t->vm, TEST_SLOT, dirty);
	return dirty[0] & 1ul << page;
}

/* A page enters the log when it is written, not when the access exits. */
static void check_log_of_exits(void)
{
	struct test_vm t;
	size_t page;

	t = test_vm_create(1, VM_MEM_SRC_SHMEM, PAGES, FLAG | KVM_MEM_LOG_DIRTY_PAGES);
	fill_page_cache(&t);
	uffd_register(&t, UFFDIO_REGISTER_MODE_MINOR);
	for (page = 0; page < PAGES; page++) {
		request(&t, 0, ACCESS_WRITE, page * t.page_size);
		run_to_memory_fault(&t, 0, page);
		TEST_ASSERT(!is_dirty(&t, page), "page %zu was not written yet", page);
		TEST_ASSERT(resolve(&t, t.vcpus[0], -EFAULT), "page %zu should not have been provided before", page);
		access_completes(&t, ACCESS_WRITE, page);
		TEST_ASSERT(is_dirty(&t, page), "page %zu should be in the log", page);
	}
	test_vm_free(&t);
}

/* Post-copy can meet dirty logging: each flag works beside the other. */
CASE(absent_write_logged)
{
	absent_exits(ACCESS_WRITE, KVM_MEM_LOG_DIRTY_PAGES);
	check_log_of_exits();
}

/* With dirty logging KVM first maps pages read-only; it still looks up writable ones. */
CASE(absent_read_logged)
{
	absent_exits(ACCESS_READ, KVM_MEM_LOG_DIRTY_PAGES);
}

CASE(absent_fetch_logged)
{
	absent_exits(ACCESS_FETCH, KVM_MEM_LOG_DIRTY_PAGES);
}

#define RING_ENTRIES	1024

static void enable_ring(struct kvm_vm *vm)
{
	vm_enable_dirty_ring(vm, RING_ENTRIES * sizeof(struct kvm_dirty_gfn));
}

/* The same with the ring: a page is dirty once it is written, not when the access exits. */
CASE(absent_write_ring)
{
	struct kvm_dirty_gfn *ring;
	struct test_vm t;
	size_t page;

	REQUIRE_FLAG();
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_DIRTY_LOG_RING_ACQ_REL));
	t = test_vm_create_as(&(struct test_vm_config){ .vcpus = 1, .backing = VM_MEM_SRC_SHMEM,
		.pages = PAGES, .flags = FLAG | KVM_MEM_LOG_DIRTY_PAGES, .setup = enable_ring });
	ring = vcpu_map_dirty_ring(t.vcpus[0]);
	fill_page_cache(&t);
	uffd_register(&t, UFFDIO_REGISTER_MODE_MINOR);
	for (page = 0; page < PAGES; page++) {
		request(&t, 0, ACCESS_WRITE, page * t.page_size);
		run_to_memory_fault(&t, 0, page);
		TEST_ASSERT(!ring[page].flags, "nothing should be dirty that was not written");
		TEST_ASSERT(resolve(&t, t.vcpus[0], -EFAULT), "page %zu should not have been provided before", page);
		access_completes(&t, ACCESS_WRITE, page);
		TEST_ASSERT(ring[page].flags == KVM_DIRTY_GFN_F_DIRTY && ring[page].slot == TEST_SLOT &&
			    ring[page].offset == page, "page %zu should be in the ring, not slot %u, page %llu",
			    page, ring[page].slot, ring[page].offset);
	}
	test_vm_free(&t);
}

/* UFFDIO_COPY resolves MISSING faults, with contents that were never in memory. */
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

/* With mapped memory the flag must not cause an exit, whatever the access. */
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
	TEST_ASSERT(resolve(&t, t.vcpus[0], -EFAULT), "the page should not have been provided before");
	access_completes(&t, ACCESS_READ, 3);
	test_vm_free(&t);
}

/* The exit reports the accessed page, wherever in the page the access was. */
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
	TEST_ASSERT(resolve(&t, t.vcpus[0], -EFAULT), "page 7 should not have been provided before");
	run_to_completion(&t, 0);
	run_to_memory_fault(&t, 0, 8);
	test_vm_free(&t);
}

/* Also in a huge page: the accessed page, not the start of the block. */
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
	/* One UFFDIO_CONTINUE provided the whole huge page, and nothing beyond. */
	access_completes(&t, ACCESS_READ, pages - 1);
	access_exits(&t, ACCESS_WRITE, pages / 2 - 1);
	test_vm_free(&t);
}

/*
 * The exit does not depend on the flag: a failed slow lookup is annotated too.  The
 * vCPU can go on once userspace has mended its mapping.
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

/* Set the flag on a live slot: accesses that KVM used to resolve now exit. */
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

/* Clear it: a vCPU that has exited goes on, though no one provides the page. */
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

/* A slot that moves away and back keeps its flag, or the loss of it. */
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

/* The number of exits from the guest while it writes to every page. */
static uint64_t exits_of_writes(struct test_vm *t)
{
	uint64_t before = vcpu_exits(t->vcpus[0]);
	size_t page;

	for (page = 0; page < t->pages; page++)
		access_completes(t, ACCESS_WRITE, page);
	return vcpu_exits(t->vcpus[0]) - before;
}

/*
 * The guest can write to a page again without another fault.  A fault per page would
 * double the exits, of which each request takes one for its ucall.
 */
static void check_toggle_keeps_mappings(uint32_t log)
{
	unsigned long dirty = 0;
	struct test_vm t;
	uint64_t settled, toggled;

	t = test_vm_create(1, VM_MEM_SRC_ANONYMOUS, 64, log);
	exits_of_writes(&t);
	settled = exits_of_writes(&t);
	test_vm_set_flags(&t, V2, log | FLAG);
	test_vm_set_flags(&t, V2, log);
	toggled = exits_of_writes(&t);
	TEST_ASSERT(toggled < settled + t.pages / 2,
		    "64 writes took %lu exits before the flag was toggled, and %lu after",
		    settled, toggled);
	if (log) {
		kvm_vm_get_dirty_log(t.vm, TEST_SLOT, &dirty);
		TEST_ASSERT(dirty == ~0ul, "all 64 pages should be in the dirty log, not 0x%lx", dirty);
	}
	test_vm_free(&t);
}

/* Toggling the flag leaves mappings alone, dirty logging or not. */
CASE(toggle_keeps_mappings)
{
	REQUIRE_FLAG();
	check_toggle_keeps_mappings(0);
	check_toggle_keeps_mappings(KVM_MEM_LOG_DIRTY_PAGES);
}

/* Dirty logging begins on a live slot: it sees every write from then on. */
static void check_log_enabled_late(uint32_t before, uint32_t after)
{
	unsigned long dirty = 0;
	struct test_vm t;

	t = test_vm_create(1, VM_MEM_SRC_ANONYMOUS, 64, before);
	TEST_ASSERT(!madvise(t.hva, t.pages * t.page_size, MADV_POPULATE_WRITE), "madvise() should work");
	exits_of_writes(&t);
	test_vm_set_flags(&t, V2, after | KVM_MEM_LOG_DIRTY_PAGES);
	access_completes(&t, ACCESS_WRITE, 3);
	access_completes(&t, ACCESS_WRITE, 63);
	kvm_vm_get_dirty_log(t.vm, TEST_SLOT, &dirty);
	TEST_ASSERT(dirty == (1ul << 3 | 1ul << 63), "pages 3 and 63 should be in the dirty log, not 0x%lx", dirty);

	/* And the same call has set the flag as requested. */
	TEST_ASSERT(!madvise(page_hva(&t, 5), t.page_size, MADV_DONTNEED), "madvise() should work");
	request(&t, 0, ACCESS_READ, 5 * t.page_size);
	if (after & FLAG)
		run_to_memory_fault(&t, 0, 5);
	else
		run_to_completion(&t, 0);
	test_vm_free(&t);
}

/* The flag stays set, is set, or is cleared by the same ioctl. */
CASE(log_enabled_late)
{
	REQUIRE_FLAG();
	check_log_enabled_late(FLAG, FLAG);
	check_log_enabled_late(0, FLAG);
	check_log_enabled_late(FLAG, 0);
}

/*
 * KVM_DIRTY_LOG_INITIALLY_SET makes all pages dirty when logging is enabled, not
 * whenever flags change.
 */
CASE(toggle_keeps_log)
{
	const uint32_t log = KVM_MEM_LOG_DIRTY_PAGES;
	unsigned long dirty = 0;
	struct test_vm t;

	REQUIRE_FLAG();
	t = test_vm_create(1, VM_MEM_SRC_ANONYMOUS, 64, 0);
	vm_enable_cap(t.vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		      KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
	test_vm_set_flags(&t, V2, log);
	kvm_vm_get_dirty_log(t.vm, TEST_SLOT, &dirty);
	TEST_ASSERT(dirty == ~0ul, "all pages should be dirty at first, not 0x%lx", dirty);
	kvm_vm_clear_dirty_log(t.vm, TEST_SLOT, &dirty, 0, 64);
	test_vm_set_flags(&t, V2, log | FLAG);
	test_vm_set_flags(&t, V1, log);
	kvm_vm_get_dirty_log(t.vm, TEST_SLOT, &dirty);
	TEST_ASSERT(!dirty, "no page should be dirty, not 0x%lx", dirty);
	test_vm_free(&t);
}
