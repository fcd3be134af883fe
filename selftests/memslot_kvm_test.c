// SPDX-License-Identifier: GPL-2.0
/*
 * KVM's own accesses to a slot with KVM_MEM_ABSENT_MAPPING_FAULT.  The flag must not
 * affect them: there is no vCPU access to exit for.  Each of them still reaches
 * userfaultfd, waits there, and completes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness.h"

#define FLAG	KVM_MEM_ABSENT_MAPPING_FAULT
#define PAGES	16

/* A flagged slot whose pages are in the page cache, and a reader. */
static void start(struct test_vm *t, struct reader *r)
{
	REQUIRE_FLAG();
	*t = test_vm_create(1, VM_MEM_SRC_SHMEM, PAGES, FLAG);
	fill_page_cache(t);
	uffd_register(t, UFFDIO_REGISTER_MODE_MINOR);
	reader_start(r, t);
}

static void stop(struct test_vm *t, struct reader *r, size_t page)
{
	reader_stop(r);
	TEST_ASSERT(r->faults == 1 && (char *)r->last == page_hva(t, page),
		    "userfaultfd should hear of KVM's access to page %zu once, not %lu times, last at page %ld",
		    page, r->faults, ((char *)r->last - t->hva) / (long)t->page_size);
	test_vm_free(t);
}

/* Steal time: put_user() writes it with every entry to the guest. */
CASE(steal_time_waits)
{
	struct test_vm t;
	struct reader r;

	start(&t, &r);
	request_steal_time(&t, 0, page_gpa(&t, 4));
	request(&t, 0, ACCESS_NONE, 0);
	run_to_completion(&t, 0);
	stop(&t, &r, 4);
}

#ifdef __x86_64__
static uint64_t gpa_of(uint64_t gva)
{
	return gva - TEST_GVA + TEST_GPA;
}

static uint64_t guest_vmsave(uint64_t gva)
{
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SVME);
	asm volatile("vmsave %0" :: "a"(gpa_of(gva)) : "memory");
	return 0;
}

/* kvm_vcpu_map() maps the operand of VMSAVE; the guest gets no exception. */
CASE(kvm_map_waits)
{
	struct test_vm t;
	struct reader r;

	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
	start(&t, &r);
	request_call(&t, 0, guest_vmsave, 2 * t.page_size);
	run_to_completion(&t, 0);
	stop(&t, &r, 2);
}

#define VMCB_EXIT_CODE	0x70

static uint64_t guest_vmrun(uint64_t gva)
{
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SVME);
	/* KVM wants an address there, and does not access it. */
	wrmsr(MSR_VM_HSAVE_PA, gpa_of(gva));
	asm volatile("vmrun %0" :: "a"(gpa_of(gva)) : "memory", "cc");
	return *(uint32_t *)(gva + VMCB_EXIT_CODE);
}

/* Nested entry: KVM maps the VMCB, finds it invalid, and writes that into it. */
CASE(nested_entry_waits)
{
	struct test_vm t;
	struct reader r;
	uint32_t code;

	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
	start(&t, &r);
	request_call(&t, 0, guest_vmrun, 3 * t.page_size);
	code = run_to_completion(&t, 0);
	TEST_ASSERT(code == -1u, "VMRUN should report an invalid VMCB, not 0x%x", code);
	stop(&t, &r, 3);
}

/* A gfn_to_pfn_cache, here of the guest's clock, looks up pages without a vCPU access. */
CASE(pfncache_waits)
{
	struct test_vm t;
	struct reader r;

	start(&t, &r);
	vcpu_set_msr(t.vcpus[0], MSR_KVM_SYSTEM_TIME_NEW, page_gpa(&t, 5) | KVM_MSR_ENABLED);
	request(&t, 0, ACCESS_NONE, 0);
	run_to_completion(&t, 0);
	/* The multiplier of the clock's scale */
	TEST_ASSERT(*(uint32_t *)(t.alias + 5 * t.page_size + 24), "the clock should have been written");
	stop(&t, &r, 5);
}

#define OUTS_PORT	0x3f0

static uint64_t guest_outs(uint64_t gva)
{
	asm volatile("outsb" : "+S"(gva) : "d"(OUTS_PORT) : "memory");
	return 0;
}

/* The emulator reads the data of OUTS, which cannot be restarted half way through. */
CASE(emulator_waits)
{
	struct test_vm t;
	struct reader r;
	struct kvm_run *run;
	int error;

	start(&t, &r);
	run = t.vcpus[0]->run;
	request_call(&t, 0, guest_outs, 6 * t.page_size);
	error = run_vcpu(t.vcpus[0]);
	TEST_ASSERT(!error && run->exit_reason == KVM_EXIT_IO && run->io.port == OUTS_PORT,
		    "KVM_RUN should exit for the port, not return %d, exit reason %s", error,
		    exit_reason_str(run->exit_reason));
	TEST_ASSERT(((uint8_t *)run)[run->io.data_offset] == (uint8_t)fetch_code(page_gpa(&t, 6)),
		    "OUTS should send the first byte of the page");
	run_to_completion(&t, 0);
	stop(&t, &r, 6);
}

/*
 * KVM_PRE_FAULT_MEMORY asks KVM to wait for memory, with or without the flag: it reaches
 * userfaultfd.  It is not KVM_RUN, and does not write kvm_run, even if it fails.
 */
CASE(pre_fault_waits)
{
	struct kvm_pre_fault_memory range = { .gpa = TEST_GPA, .size = getpagesize() };
	struct test_vm t;
	struct reader r;

	TEST_REQUIRE(kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY));
	start(&t, &r);
	TEST_ASSERT(!__vcpu_ioctl(t.vcpus[0], KVM_PRE_FAULT_MEMORY, &range),
		    "KVM_PRE_FAULT_MEMORY should populate the page, errno %d", errno);
	TEST_ASSERT(r.faults == 1, "userfaultfd should hear of it once, not %lu times", r.faults);

	TEST_ASSERT(!mprotect(t.hva, PAGES * t.page_size, PROT_NONE), "mprotect() should work");
	range = (struct kvm_pre_fault_memory){ .gpa = page_gpa(&t, 1), .size = getpagesize() };
	t.vcpus[0]->run->exit_reason = KVM_EXIT_IO;
	TEST_ASSERT(__vcpu_ioctl(t.vcpus[0], KVM_PRE_FAULT_MEMORY, &range) == -1 && errno == EFAULT,
		    "KVM_PRE_FAULT_MEMORY should fail with EFAULT, errno %d", errno);
	TEST_ASSERT(t.vcpus[0]->run->exit_reason == KVM_EXIT_IO, "kvm_run should be left alone");
	stop(&t, &r, 0);
}

static uint64_t guest_read_interruptible(uint64_t gva)
{
	uint64_t value;

	asm volatile("sti; nop; mov (%1), %0; cli" : "=r"(value) : "r"(gva) : "memory");
	return value;
}

/* A kernel worker waits for the page instead of the vCPU: the faulting task is not ours. */
static void check_worker_waits(struct test_vm *t, struct reader *r, size_t page)
{
	uint64_t before = r->faults;

	request_call(t, 0, guest_read_interruptible, page * t->page_size);
	TEST_ASSERT(run_to_completion(t, 0) == fetch_code(page_gpa(t, page)), "the guest should read the page");
	TEST_ASSERT(r->faults > before && r->task != getpid(),
		    "a worker should have waited: %lu faults, the last by task %u, and this is %u",
		    r->faults - before, r->task, getpid());
}

/* Asynchronous page faults: on without the flag, off with it, then on again. */
CASE(async_page_fault)
{
	struct test_vm t;
	struct reader r;

	start(&t, &r);
	test_vm_set_flags(&t, V2, 0);
	check_worker_waits(&t, &r, 1);

	test_vm_set_flags(&t, V2, FLAG);
	request_call(&t, 0, guest_read_interruptible, 2 * t.page_size);
	r.faults = 0;
	run_to_memory_fault(&t, 0, 2);
	TEST_ASSERT(resolve(&t, t.vcpus[0], -EFAULT), "page 2 should not have been provided before");
	TEST_ASSERT(run_to_completion(&t, 0) == fetch_code(page_gpa(&t, 2)), "the guest should read page 2");
	TEST_ASSERT(!r.faults, "nobody should have waited, not %lu times", r.faults);

	test_vm_set_flags(&t, V2, 0);
	check_worker_waits(&t, &r, 3);
	reader_stop(&r);
	test_vm_free(&t);
}
#endif

#ifdef __aarch64__
#include "gic_v3.h"
#include "vgic.h"

static void enable_mte(struct kvm_vm *vm)
{
	vm_enable_cap(vm, KVM_CAP_ARM_MTE, 0);
}

/* KVM_ARM_MTE_COPY_TAGS is a VM ioctl: there is no vCPU to exit. */
CASE(mte_copy_waits)
{
	static uint8_t tags[4096 / 16];
	struct kvm_arm_copy_mte_tags copy = {
		.guest_ipa = TEST_GPA, .length = getpagesize(), .addr = tags,
		.flags = KVM_ARM_TAGS_FROM_GUEST,
	};
	struct test_vm t;
	struct reader r;
	int n;

	REQUIRE_FLAG();
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_ARM_MTE));
	/* Private memory: KVM refuses shared memory for guests with tags. */
	t = test_vm_create_as(&(struct test_vm_config){ .vcpus = 1, .backing = VM_MEM_SRC_ANONYMOUS,
		.pages = PAGES, .flags = FLAG, .setup = enable_mte });
	uffd_register(&t, UFFDIO_REGISTER_MODE_MISSING);
	reader_start(&r, &t);
	n = __vm_ioctl(t.vm, KVM_ARM_MTE_COPY_TAGS, &copy);
	TEST_ASSERT(n == copy.length, "the tags of a page should be copied, not %d, errno %d", n, errno);
	stop(&t, &r, 0);
}

#define GITS_BASER_COLLECTIONS	(GITS_BASER + 8)

/* The ITS writes its tables to guest memory for an ioctl of a device. */
CASE(its_save_waits)
{
	/* valid, collections, entries of 8 bytes, one page of 64K */
	uint64_t baser = 1ull << 63 | 4ull << 56 | 7ull << 48 | 2 << 8 | TEST_GPA;
	struct test_vm t;
	struct reader r;
	int gic, its;

	start(&t, &r);
	gic = vgic_v3_setup(t.vm, 1, 64);
	TEST_REQUIRE(gic >= 0);
	its = vgic_its_setup(t.vm);
	kvm_device_attr_set(its, KVM_DEV_ARM_VGIC_GRP_ITS_REGS, GITS_BASER_COLLECTIONS, &baser);
	kvm_device_attr_set(its, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_ITS_SAVE_TABLES, NULL);
	close(its);
	close(gic);
	stop(&t, &r, 0);
}
#endif
