// SPDX-License-Identifier: GPL-2.0
/* See harness.h for what each function promises. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness.h"
#include "kvm_compat.h"
#include "ucall_common.h"

/* --- the guest: do the access that the host asked for, report, repeat --- */

static struct guest_request {
	uint64_t access;
	uint64_t gva;
	uint64_t count;
	uint64_t stride;	/* bytes */
	uint64_t step;
} requests[MAX_VCPUS];

/* @access is an enum access, or a function of the test program. */
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
	case ACCESS_NONE:
		return 0;
	default:
		return ((guest_function)access)(gva);
	}
}

static void guest_main(uint64_t index)
{
	for (;;) {
		struct guest_request r = requests[index];
		uint64_t sum = 0, left, at = 0;

		for (left = r.count; left; left--) {
			sum += guest_access(r.access, r.gva + at * r.stride);
			at += r.step;
			at -= at >= r.count ? r.count : 0;
		}
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

#else
#error "which bytes are a function, and how does KVM access guest memory here?"
#endif

/* --- VM and memory --- */

/* libkvm makes room for the page tables of so many more pages, which some cases map. */
#define EXTRA_PAGES	128

struct test_vm test_vm_create(int vcpus, enum vm_mem_backing_src_type backing,
			      size_t pages, uint32_t flags)
{
	return test_vm_create_as(&(struct test_vm_config){
		.vcpus = vcpus, .backing = backing, .pages = pages, .flags = flags });
}

struct test_vm test_vm_create_as(const struct test_vm_config *c)
{
	struct test_vm t = {
		.pages = c->pages, .uffd = -1,
		.page_size = getpagesize(),
		.granule = get_backing_src_pagesz(c->backing),
	};
	struct vm_shape shape = { .mode = c->mode };
	size_t guest_pages;
	int i;

	/* userfaultfd works in units of huge pages for hugetlb, not for THP. */
	if (c->backing == VM_MEM_SRC_ANONYMOUS_THP)
		t.granule = t.page_size;

	disable_default_vgic();
	t.vm = __vm_create(c->mode ? shape : VM_SHAPE_DEFAULT, c->vcpus, EXTRA_PAGES + c->pages);
	if (c->setup)
		c->setup(t.vm);
	for (i = 0; i < c->vcpus; i++)
		t.vcpus[i] = vm_vcpu_add(t.vm, i, guest_main);
	guest_pages = t.pages * t.page_size / t.vm->page_size;
	vm_userspace_mem_region_add(t.vm, c->backing, TEST_GPA, TEST_SLOT, guest_pages, c->flags);
	virt_map(t.vm, TEST_GVA, TEST_GPA, guest_pages);
	for (i = 0; i < c->vcpus; i++)
		vcpu_args_set(t.vcpus[i], 1, i);

	t.hva = addr_gpa2hva(t.vm, TEST_GPA);
	t.alias = backing_src_is_shared(c->backing) ? addr_gpa2alias(t.vm, TEST_GPA) : NULL;
	return t;
}

void test_vm_free(struct test_vm *t)
{
	if (t->uffd >= 0)
		close(t->uffd);
	free(t->source);
	free(t->fetched);
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

void pin_to_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	TEST_ASSERT(!sched_setaffinity(0, sizeof(set), &set), "there should be a CPU %d to run on", cpu);
}

void request(struct test_vm *t, int vcpu, enum access access, uint64_t offset)
{
	request_pages(t, vcpu, access, offset, 1);
}

static void send_request(struct test_vm *t, int vcpu, struct guest_request r)
{
	memcpy(addr_gva2hva(t->vm, (uintptr_t)&requests[vcpu]), &r, sizeof(r));
}

void request_pages(struct test_vm *t, int vcpu, enum access access, uint64_t offset, size_t count)
{
	send_request(t, vcpu, (struct guest_request){ access, TEST_GVA + offset, count, t->page_size, 1 });
}

void request_call(struct test_vm *t, int vcpu, guest_function function, uint64_t offset)
{
	request_calls(t, vcpu, function, offset, 1);
}

void request_calls(struct test_vm *t, int vcpu, guest_function function, uint64_t offset, size_t count)
{
	request_walk(t, vcpu, &(struct guest_walk){ function, offset, count, t->page_size, 1 });
}

void request_walk(struct test_vm *t, int vcpu, const struct guest_walk *w)
{
	uint64_t step = w->count ? w->step % w->count : 0;

	send_request(t, vcpu, (struct guest_request){ (uintptr_t)w->function, TEST_GVA + w->offset,
						      w->count, w->stride, step ? step : w->count });
}

#define NO_EXIT_REASON	0xdeadu

int run_vcpu(struct kvm_vcpu *vcpu)
{
	int r;

	/*
	 * get_ucall() has made KVM complete the I/O of the last ucall.  An access to no
	 * memory is still to be completed, with the caller's data, and arm64 does so only
	 * if exit_reason still says KVM_EXIT_MMIO.
	 */
	if (vcpu->run->exit_reason != KVM_EXIT_MMIO) {
		vcpu->run->exit_reason = NO_EXIT_REASON;
		memset(&vcpu->run->memory_fault, 0xa5, sizeof(vcpu->run->memory_fault));
	}
	do {
		r = __vcpu_run(vcpu) ? -errno : 0;
	} while (r == -EINTR);
	return r;
}

uint64_t run_to_completion(struct test_vm *t, int vcpu)
{
	struct kvm_run *run = t->vcpus[vcpu]->run;
	int r = run_vcpu(t->vcpus[vcpu]);

	TEST_ASSERT(!r, "KVM_RUN should succeed, not return %d (%s), exit reason %u (%s), gpa 0x%llx",
		    r, strerror(-r), run->exit_reason, exit_reason_str(run->exit_reason),
		    run->memory_fault.gpa);
	return completion(t, vcpu);
}

uint64_t completion(struct test_vm *t, int vcpu)
{
	struct kvm_vcpu *v = t->vcpus[vcpu];
	struct ucall uc;
	uint64_t cmd = get_ucall(v, &uc);

	TEST_ASSERT(cmd == UCALL_SYNC,
		    "the guest should report its access, not %lu, exit reason %s%s", cmd,
		    exit_reason_str(v->run->exit_reason), cmd == UCALL_ABORT ? (char *)uc.buffer : "");
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

static const char * const access_names[] = {
	[ACCESS_READ] = "read", [ACCESS_WRITE] = "write", [ACCESS_FETCH] = "fetch",
};

uint64_t expected(enum access access, uint64_t gpa, uint64_t offset)
{
	if (access == ACCESS_READ)
		return fetch_code(gpa);
	return access == ACCESS_FETCH ? page_value(gpa) : TEST_GVA + offset;
}

void access_completes(struct test_vm *t, enum access access, size_t page)
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

void access_exits(struct test_vm *t, enum access access, size_t page)
{
	request(t, 0, access, page * t->page_size);
	run_to_memory_fault(t, 0, page);
	TEST_ASSERT(resolve(t, t->vcpus[0], -EFAULT), "page %zu should not have been provided before", page);
	access_completes(t, access, page);
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

void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	TEST_ASSERT(fd >= 0 && write(fd, text, strlen(text)) == strlen(text),
		    "writing %s to %s should work, errno %d", text, path, errno);
	close(fd);
}
