// SPDX-License-Identifier: GPL-2.0
/* See harness.h for what each function promises. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/userfaultfd.h>

#include "harness.h"
#include "ucall_common.h"

/* --- the guest: do the access that the host asked for, report, repeat --- */

static struct guest_request {
	uint64_t access;
	uint64_t gva;
	uint64_t count;
	uint64_t stride;	/* bytes */
} requests[MAX_VCPUS];

static void guest_access_by_kvm(uint64_t gpa);

static uint64_t guest_access(uint64_t access, uint64_t gva)
{
	switch (access) {
	case ACCESS_READ:
		return READ_ONCE(*(uint64_t *)gva);
	case ACCESS_WRITE:
		WRITE_ONCE(*(uint64_t *)gva, gva);
		return gva;
	case ACCESS_FETCH:
		return ((uint32_t (*)(void))gva)();
	case ACCESS_BY_KVM:
		guest_access_by_kvm(gva - TEST_GVA + TEST_GPA);
		return 0;
	default:
		return 0;
	}
}

static void guest_main(uint64_t index)
{
	for (;;) {
		struct guest_request r = requests[index];
		uint64_t sum = 0;

		for (; r.count; r.count--, r.gva += r.stride)
			sum += guest_access(r.access, r.gva);
		GUEST_SYNC(sum);
		barrier();
	}
}

/* --- what differs between architectures --- */

#ifdef __x86_64__
/* mov $value, %eax; ret */
uint64_t fetch_code(uint64_t gpa)
{
	return 0xb8 | (uint64_t)page_value(gpa) << 8 | 0xc3ull << 40;
}

/* KVM maps the VMCB that the instruction names by kvm_vcpu_map(). */
static void guest_access_by_kvm(uint64_t gpa)
{
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SVME);
	asm volatile("vmsave %0" :: "a"(gpa) : "memory");
}

void request_steal_time(struct test_vm *t, int vcpu, uint64_t gpa)
{
	vcpu_set_msr(t->vcpus[vcpu], MSR_KVM_STEAL_TIME, gpa | KVM_MSR_ENABLED);
}
#elif defined(__aarch64__)
/* movz w0, #value; ret */
uint64_t fetch_code(uint64_t gpa)
{
	return 0x52800000 | (uint64_t)page_value(gpa) << 5 | 0xd65f03c0ull << 32;
}

void request_steal_time(struct test_vm *t, int vcpu, uint64_t gpa)
{
	vcpu_device_attr_set(t->vcpus[vcpu], KVM_ARM_VCPU_PVTIME_CTRL,
			     KVM_ARM_VCPU_PVTIME_IPA, &gpa);
}

static void guest_access_by_kvm(uint64_t gpa)
{
	GUEST_FAIL("no such access on this architecture");
}
#else
#error "which bytes are a function, and how does KVM access guest memory here?"
#endif

/* --- VM and memory --- */

struct test_vm test_vm_create(int vcpus, enum vm_mem_backing_src_type backing,
			      size_t pages, uint32_t flags)
{
	struct test_vm t = {
		.pages = pages, .uffd = -1,
		.page_size = getpagesize(),
		.granule = get_backing_src_pagesz(backing),
	};
	int i;

	/* userfaultfd works in units of huge pages for hugetlb, not for THP. */
	if (backing == VM_MEM_SRC_ANONYMOUS_THP)
		t.granule = t.page_size;

	t.vm = vm_create_with_vcpus(vcpus, guest_main, t.vcpus);
	TEST_ASSERT(t.vm->page_size == t.page_size, "guest pages of %u bytes, host pages of %zu",
		    t.vm->page_size, t.page_size);
	vm_userspace_mem_region_add(t.vm, backing, TEST_GPA, TEST_SLOT, pages, flags);
	virt_map(t.vm, TEST_GVA, TEST_GPA, pages);
	for (i = 0; i < vcpus; i++)
		vcpu_args_set(t.vcpus[i], 1, i);

	t.hva = addr_gpa2hva(t.vm, TEST_GPA);
	t.alias = backing_src_is_shared(backing) ? addr_gpa2alias(t.vm, TEST_GPA) : NULL;
	return t;
}

void test_vm_free(struct test_vm *t)
{
	if (t->uffd >= 0)
		close(t->uffd);
	free(t->source);
	kvm_vm_free(t->vm);
}

void test_vm_set_flags(struct test_vm *t, enum ioctl_version version, uint32_t flags)
{
	if (version == V1)
		vm_set_user_memory_region(t->vm, TEST_SLOT, flags, TEST_GPA,
					  t->pages * t->page_size, t->hva);
	else
		vm_mem_region_set_flags(t->vm, TEST_SLOT, flags);
}

void write_page(char *to, uint64_t gpa)
{
	uint64_t code = fetch_code(gpa);

	memcpy(to, &code, sizeof(code));
	__builtin___clear_cache(to, to + sizeof(code));
}

void fill_page_cache(struct test_vm *t)
{
	size_t page;

	TEST_ASSERT(t->alias, "only shared memory has a page cache to fill");
	for (page = 0; page < t->pages; page++)
		write_page(t->alias + page * t->page_size, page_gpa(t, page));
}

/* --- running --- */

void request(struct test_vm *t, int vcpu, enum access access, uint64_t offset)
{
	request_pages(t, vcpu, access, offset, 1);
}

void request_pages(struct test_vm *t, int vcpu, enum access access, uint64_t offset, size_t count)
{
	requests[vcpu] = (struct guest_request){ access, TEST_GVA + offset, count, t->page_size };
	memcpy(addr_gva2hva(t->vm, (vm_vaddr_t)&requests[vcpu]), &requests[vcpu],
	       sizeof(requests[vcpu]));
}

#define NO_EXIT_REASON	0xdeadu

int run_vcpu(struct kvm_vcpu *vcpu)
{
	int r;

	/* get_ucall() has made KVM complete the I/O that the last ucall was. */
	vcpu->run->exit_reason = NO_EXIT_REASON;
	memset(&vcpu->run->memory_fault, 0xa5, sizeof(vcpu->run->memory_fault));
	do {
		r = __vcpu_run(vcpu) ? -errno : 0;
	} while (r == -EINTR);
	return r;
}

uint64_t run_to_completion(struct test_vm *t, int vcpu)
{
	struct kvm_vcpu *v = t->vcpus[vcpu];
	struct ucall uc;
	int r = run_vcpu(v);

	TEST_ASSERT(!r, "KVM_RUN should succeed, not return %d (%s), exit reason %u (%s), gpa 0x%llx",
		    r, strerror(-r), v->run->exit_reason, exit_reason_str(v->run->exit_reason),
		    v->run->memory_fault.gpa);
	TEST_ASSERT(get_ucall(v, &uc) == UCALL_SYNC,
		    "the guest should report its access, not %lu, exit reason %s", uc.cmd, exit_reason_str(v->run->exit_reason));
	return uc.args[1];
}

void run_to_memory_fault(struct test_vm *t, int vcpu, size_t page)
{
	check_memory_fault(t, vcpu, run_vcpu(t->vcpus[vcpu]), page);
}

void check_memory_fault(struct test_vm *t, int vcpu, int r, size_t page)
{
	struct kvm_run *run = t->vcpus[vcpu]->run;

	TEST_ASSERT(r == -EFAULT, "KVM_RUN should fail with EFAULT, not return %d (%s), exit reason %s",
		    r, strerror(-r), exit_reason_str(run->exit_reason));
	TEST_ASSERT(run->exit_reason == KVM_EXIT_MEMORY_FAULT,
		    "the exit reason should be MEMORY_FAULT, not %u (%s)",
		    run->exit_reason, exit_reason_str(run->exit_reason));
	TEST_ASSERT(run->memory_fault.gpa == page_gpa(t, page),
		    "the gpa should be 0x%lx, not 0x%llx", page_gpa(t, page), run->memory_fault.gpa);
	TEST_ASSERT(run->memory_fault.size == t->page_size,
		    "the size should be %zu, not %llu", t->page_size, run->memory_fault.size);
	TEST_ASSERT(run->memory_fault.flags == 0,
		    "no flag should be set, but flags are 0x%llx", run->memory_fault.flags);
}

uint64_t vcpu_exits(struct kvm_vcpu *vcpu)
{
	struct kvm_stats_header header;
	struct kvm_stats_desc *all, *desc = NULL;
	int fd = vcpu_get_stats_fd(vcpu);
	uint64_t value = 0;
	unsigned int i;

	read_stats_header(fd, &header);
	all = read_stats_descriptors(fd, &header);
	for (i = 0; i < header.num_desc; i++) {
		desc = get_stats_descriptor(all, i, &header);
		if (!strcmp(desc->name, "exits"))
			break;
	}
	TEST_ASSERT(i < header.num_desc, "vCPUs should have a statistic \"exits\"");
	read_stat_data(fd, &header, desc, &value, 1);
	free(all);
	close(fd);
	return value;
}

/* --- userfaultfd --- */

void uffd_register(struct test_vm *t, int mode)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { (uintptr_t)t->hva, t->pages * t->page_size },
		.mode = mode,
	};

	t->uffd_mode = mode;
	t->source = calloc(1, t->granule);
	t->uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	TEST_ASSERT(t->uffd >= 0 && t->source, "userfaultfd() should work");
	TEST_ASSERT(!ioctl(t->uffd, UFFDIO_API, &api), "UFFDIO_API should work");
	TEST_ASSERT(!ioctl(t->uffd, UFFDIO_REGISTER, &reg), "UFFDIO_REGISTER should work");
}

int provide(struct test_vm *t, char *hva, bool wake)
{
	char *start = (char *)((uintptr_t)hva & ~(t->granule - 1));
	int r;

	if (t->uffd_mode == UFFDIO_REGISTER_MODE_MINOR) {
		struct uffdio_continue c = {
			.range = { (uintptr_t)start, t->granule },
			.mode = wake ? 0 : UFFDIO_CONTINUE_MODE_DONTWAKE,
		};

		r = ioctl(t->uffd, UFFDIO_CONTINUE, &c);
	} else {
		struct uffdio_copy c = {
			.dst = (uintptr_t)start, .src = (uintptr_t)t->source, .len = t->granule,
			.mode = wake ? 0 : UFFDIO_COPY_MODE_DONTWAKE,
		};

		r = ioctl(t->uffd, UFFDIO_COPY, &c);
	}
	return r ? -errno : 0;
}

bool resolve(struct test_vm *t, struct kvm_vcpu *vcpu)
{
	char *hva = addr_gpa2hva(t->vm, vcpu->run->memory_fault.gpa);
	char *start = (char *)((uintptr_t)hva & ~(t->granule - 1));
	int r = provide(t, hva, false);

	if (!r)
		return true;

	/*
	 * Somebody else provided it.  That says nothing about what is mapped now, or
	 * whether it is writable, so ask for just that.  _READ would not do.
	 */
	TEST_ASSERT(r == -EEXIST, "providing %p should work, not fail with %s", hva, strerror(-r));
	TEST_ASSERT(!madvise(start, t->granule, MADV_POPULATE_WRITE),
		    "MADV_POPULATE_WRITE of %p should work", start);
	return false;
}

/* Serve one message, if there still is one. */
static void serve(struct reader *r)
{
	struct uffd_msg msg;
	struct uffdio_range range;
	int error;

	if (read(r->t->uffd, &msg, sizeof(msg)) != sizeof(msg))
		return;
	TEST_ASSERT(msg.event == UFFD_EVENT_PAGEFAULT, "only page faults are expected, not %u", msg.event);
	r->last = msg.arg.pagefault.address;
	error = provide(r->t, (char *)r->last, true);
	if (error == -EEXIST) {
		/* A failed COPY or CONTINUE wakes no one, and a vCPU never does. */
		range = (struct uffdio_range){ r->last & ~(r->t->granule - 1), r->t->granule };
		error = ioctl(r->t->uffd, UFFDIO_WAKE, &range) ? -errno : 0;
	}
	TEST_ASSERT(!error, "serving 0x%lx should work, not fail with %s", r->last, strerror(-error));
	__atomic_add_fetch(&r->faults, 1, __ATOMIC_SEQ_CST);
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
