// SPDX-License-Identifier: GPL-2.0
/*
 * Origins of an access to a flagged memslot: a nested guest, the walk of the guest's own
 * page tables, system management mode, a guest with larger pages.  Each time the exit
 * has the gpa in the VM's own address space, and the host's page size.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/mman.h>

#include "harness.h"
#include "kvm_compat.h"

#define FLAG	KVM_MEM_ABSENT_MAPPING_FAULT
#define PAGES	32

/* --- the guest's page tables are in the slot --- */

/* No page table of the guest covers it yet; its first three pages become the tables. */
#define WALK_GVA	(1ull << 40)
#define WALK_TABLES	3
#define WALK_PAGE	10

static uint64_t guest_read_walk_gva(uint64_t gva)
{
	return READ_ONCE(*(uint64_t *)WALK_GVA);
}

static struct test_vm create_walk_vm(void)
{
	struct test_vm t = test_vm_create(1, VM_MEM_SRC_SHMEM, PAGES, FLAG);

	t.vm->memslots[MEM_REGION_PT] = TEST_SLOT;
	virt_map(t.vm, WALK_GVA, page_gpa(&t, WALK_PAGE), 1);
	write_page(t.alias + WALK_PAGE * t.page_size, page_gpa(&t, WALK_PAGE));
	/* In the page cache only, from here on */
	TEST_ASSERT(!madvise(t.hva, t.pages * t.page_size, MADV_DONTNEED), "madvise() should work");
	uffd_register(&t, UFFDIO_REGISTER_MODE_MINOR);
	return t;
}

/* Make the guest walk the tables.  Returns a bitmap of the pages that exited. */
static uint64_t walk(struct test_vm *t)
{
	uint64_t seen = 0;
	size_t page;
	int error;

	request_call(t, 0, guest_read_walk_gva, 0);
	while ((error = run_vcpu(t->vcpus[0]))) {
		page = (t->vcpus[0]->run->memory_fault.gpa - TEST_GPA) / t->page_size;
		check_memory_fault(t, 0, error, page);
		TEST_ASSERT(page < t->pages && !(seen & 1ull << page), "page %zu should not exit again", page);
		seen |= 1ull << page;
		resolve(t, t->vcpus[0], error);
	}
	TEST_ASSERT(completion(t, 0) == fetch_code(page_gpa(t, WALK_PAGE)), "the guest should read the page");
	return seen;
}

static void check_walk(uint64_t exits, uint64_t waits)
{
	struct test_vm t;
	struct reader r;
	uint64_t seen;

	REQUIRE_FLAG();
	t = create_walk_vm();
	reader_start(&r, &t);
	seen = walk(&t);
	reader_stop(&r);
	TEST_ASSERT(seen == exits && r.faults == waits,
		    "pages 0x%lx should exit, not 0x%lx; %lu should be waited for, not %lu",
		    exits, seen, waits, r.faults);
	test_vm_free(&t);
}

/* The hardware walks: each table that is absent exits like any other access. */
CASE(page_walk_exits)
{
	check_walk(((1 << WALK_TABLES) - 1) | 1 << WALK_PAGE, 0);
}

/* KVM walks, for shadow paging: it waits for the tables; the access itself exits. */
CASE(page_walk_waits)
{
	check_walk(1 << WALK_PAGE, WALK_TABLES);
}

#ifdef __x86_64__

/* --- a nested guest --- */

#define NPT_PRESENT	7ull	/* and writable, and user, which every nested access is */
#define NPT_LARGE	(1ull << 7)
/* Page i of the slot, for the nested guest, is page i + NESTED_SHIFT in the VM. */
#define NESTED_SHIFT	4

static struct {
	struct svm_test_data *svm;
	uint64_t npt;
	uint64_t gva, value;
} nested;

static uint64_t *table_at(struct test_vm *t, uint64_t gpa)
{
	return addr_gpa2hva(t->vm, gpa);
}

static uint64_t new_table(struct test_vm *t)
{
	uint64_t gpa = vm_phy_page_alloc(t->vm, KVM_GUEST_PAGE_TABLE_MIN_PADDR, 0);

	memset(table_at(t, gpa), 0, t->page_size);
	return gpa;
}

/* Map the first GiB as it is, and the slot shifted. */
static uint64_t build_npt(struct test_vm *t)
{
	uint64_t root = new_table(t), pdpt = new_table(t), low = new_table(t),
		 pd = new_table(t), pt = new_table(t);
	int i;

	table_at(t, root)[0] = pdpt | NPT_PRESENT;
	table_at(t, pdpt)[0] = low | NPT_PRESENT;
	table_at(t, pdpt)[TEST_GPA >> 30] = pd | NPT_PRESENT;
	table_at(t, pd)[0] = pt | NPT_PRESENT;
	for (i = 0; i < 512; i++)
		table_at(t, low)[i] = (uint64_t)i << 21 | NPT_LARGE | NPT_PRESENT;
	for (i = 0; i < PAGES - NESTED_SHIFT; i++)
		table_at(t, pt)[i] = page_gpa(t, i + NESTED_SHIFT) | NPT_PRESENT;
	return root;
}

static void nested_main(void)
{
	nested.value = READ_ONCE(*(uint64_t *)nested.gva);
	vmmcall();
}

static uint64_t guest_run_nested(uint64_t gva)
{
	static unsigned long stack[512];
	struct vmcb *vmcb = nested.svm->vmcb;

	nested.gva = gva;
	setup_svm(nested.svm, nested_main, &stack[500]);
	enable_nested_paging(&vmcb->control);
	vmcb->control.nested_cr3 = nested.npt;
	run_guest(vmcb, nested.svm->vmcb_gpa);
	GUEST_ASSERT_EQ(vmcb->control.exit_code, SVM_EXIT_VMMCALL);
	return nested.value;
}

/* The exit has the gpa of the VM, not that of the nested guest. */
CASE(nested_guest)
{
	struct test_vm t;
	guest_address_t svm;

	REQUIRE_FLAG();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
	t = test_vm_create(1, VM_MEM_SRC_SHMEM, PAGES, FLAG);
	vcpu_alloc_svm(t.vm, &svm);
	nested.svm = (struct svm_test_data *)(uintptr_t)svm;
	nested.npt = build_npt(&t);
	sync_global_to_guest(t.vm, nested);
	fill_page_cache(&t);
	uffd_register(&t, UFFDIO_REGISTER_MODE_MINOR);

	request_call(&t, 0, guest_run_nested, 3 * t.page_size);
	run_to_memory_fault(&t, 0, 3 + NESTED_SHIFT);
	TEST_ASSERT(resolve(&t, t.vcpus[0], -EFAULT), "the page should not have been provided before");
	TEST_ASSERT(run_to_completion(&t, 0) == fetch_code(page_gpa(&t, 3 + NESTED_SHIFT)),
		    "the nested guest should read the page");
	test_vm_free(&t);
}

/* --- system management mode has memslots of its own --- */

#define SMM_SLOT(slot)	(1u << 16 | (slot))

static void set_smm_slot(struct test_vm *t, uint32_t slot, uint32_t flags)
{
	struct userspace_mem_region *r = memslot2region(t->vm, slot);

	vm_set_user_memory_region(t->vm, SMM_SLOT(slot), flags, r->region.guest_phys_addr,
				  r->region.memory_size, (void *)r->region.userspace_addr);
}

static void set_smm(struct test_vm *t, bool smm)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(t->vcpus[0], &events);
	events.flags = KVM_VCPUEVENT_VALID_SMM;
	events.smi.smm = smm;
	vcpu_events_set(t->vcpus[0], &events);
}

/* An access exits if it uses the address space whose slot has the flag. */
CASE(smm_address_space)
{
	const uint32_t flags[2][2] = { { 0, FLAG }, { FLAG, 0 } };	/* [round][in SMM] */
	struct test_vm t;
	int round;

	REQUIRE_FLAG();
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_MULTI_ADDRESS_SPACE) == 2 && kvm_has_cap(KVM_CAP_X86_SMM));
	t = test_vm_create(1, VM_MEM_SRC_SHMEM, PAGES, 0);
	set_smm_slot(&t, 0, 0);
	fill_page_cache(&t);
	for (round = 0; round < 2; round++) {
		test_vm_set_flags(&t, V2, flags[round][0]);
		set_smm_slot(&t, TEST_SLOT, flags[round][1]);
		/* A write: reads of a file also map its next pages. */
		request(&t, 0, ACCESS_WRITE, round * t.page_size);
		set_smm(&t, !round);
		run_to_memory_fault(&t, 0, round);
		set_smm(&t, round);
		run_to_completion(&t, 0);
		TEST_ASSERT(*(uint64_t *)page_hva(&t, round) == TEST_GVA + round * t.page_size,
			    "without the flag the access should complete");
	}
	test_vm_free(&t);
}
#endif

#ifdef __aarch64__
/* --- a guest with pages of another size than the host's --- */

static void check_guest_pages(enum vm_guest_mode mode, unsigned int tg0)
{
	enum access access;
	struct test_vm t;
	uint64_t tcr;

	REQUIRE_FLAG();
	t = test_vm_create_as(&(struct test_vm_config){ .vcpus = 1, .backing = VM_MEM_SRC_SHMEM,
		.pages = PAGES, .flags = FLAG, .mode = mode });
	TEST_ASSERT(!__vcpu_get_reg(t.vcpus[0], KVM_ARM64_SYS_REG(SYS_TCR_EL1), &tcr), "TCR_EL1 should be readable");
	TEST_ASSERT((tcr >> 14 & 3) == tg0, "the guest's granule should be %u, TCR_EL1 is 0x%lx", tg0, tcr);
	fill_page_cache(&t);
	uffd_register(&t, UFFDIO_REGISTER_MODE_MINOR);
	/* In the middle of a guest's page: the exit reports the host's page */
	for (access = ACCESS_READ; access <= ACCESS_FETCH; access++)
		access_exits(&t, access, 16 + access);
	test_vm_free(&t);
}

CASE(guest_pages_4k)
{
	check_guest_pages(VM_MODE_P40V48_4K, 0);
}

CASE(guest_pages_16k)
{
	check_guest_pages(VM_MODE_P40V48_16K, 2);
}

CASE(guest_pages_64k)
{
	check_guest_pages(VM_MODE_P40V48_64K, 1);
}
#endif
