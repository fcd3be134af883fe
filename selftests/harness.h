/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Shared by the tests and the benchmark: a case is a function, a guest obeys requests, a
 * VM has one memslot under test, and a userfaultfd may cover that memslot.
 */
#ifndef SELFTESTS_HARNESS_H
#define SELFTESTS_HARNESS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

/* Warnings in our files are errors; the rest of the tree has its own rules. */
#pragma GCC diagnostic error "-Wall"

/*
 * A case: CASE(name) { ... } in a test program, and a line in selftests/cases that
 * runs the program with the name as its argument.  It passes by returning.
 */
struct test_case {
	const char *name;
	void (*run)(void);
};

#define CASE(_name)							\
static void _name(void);						\
static const struct test_case case_##_name				\
	__attribute__((used, section("cases"))) = { #_name, _name };	\
static void _name(void)

/* Skip the case, with the reason, on a kernel that doesn't have the flag. */
#define REQUIRE_FLAG()							\
	__TEST_REQUIRE(kvm_has_cap(KVM_CAP_MEMORY_FAULT_NOWAIT),	\
		       "KVM_CAP_MEMORY_FAULT_NOWAIT is missing")

/* The value of a page, which the guest can verify; the same for all accesses. */
static inline uint16_t page_value(uint64_t gpa)
{
	return 0x5a00 ^ (gpa >> 12);
}

enum access {
	ACCESS_NONE, ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH,
};

/* The guest may also call a function of the test program. */
typedef uint64_t (*guest_function)(uint64_t gva);

#define TEST_SLOT	10
#define TEST_GPA	(1ull << 32)
/* Differs from TEST_GPA: a test notices if KVM reports one for the other. */
#define TEST_GVA	(TEST_GPA + (1ull << 30))
#define MAX_VCPUS	64

/* A VM with one memslot under test, of @pages base pages at TEST_GPA. */
struct test_vm {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	size_t pages;
	size_t page_size;	/* bytes, of the guest and the host */
	size_t granule;		/* bytes that userfaultfd provides at once */
	char *hva;		/* where the memslot is mapped */
	char *alias;		/* a second mapping, not registered; NULL if private */
	int uffd;		/* or -1 */
	int uffd_mode;		/* UFFDIO_REGISTER_MODE_* */
	uint64_t uffd_features;	/* more UFFD_FEATURE_*; set before uffd_register() */
	void *source;		/* @granule bytes that MISSING faults are resolved from */
	uint8_t *fetched;	/* an enum fetched for each granule, once registered */
	/* If memory comes from elsewhere: put a granule's content into the page cache. */
	void (*fetch)(struct test_vm *t, char *start);
	struct { uint64_t gpa; unsigned int times; } repeats[MAX_VCPUS];
};

/*
 * Create the VM; @flags are those of the memslot.  The guest can access the slot at
 * TEST_GVA, and none of its memory is present.
 */
struct test_vm test_vm_create(int vcpus, enum vm_mem_backing_src_type backing,
			      size_t pages, uint32_t flags);

/* The same with more choices; fields that are zero are as above. */
struct test_vm_config {
	int vcpus;
	enum vm_mem_backing_src_type backing;
	size_t pages;			/* of the host's size */
	uint32_t flags;
	enum vm_guest_mode mode;	/* VM_MODE_*, if not the default */
	void (*setup)(struct kvm_vm *vm);	/* before there are vCPUs */
};
struct test_vm test_vm_create_as(const struct test_vm_config *c);
void test_vm_free(struct test_vm *t);

enum ioctl_version { V1, V2 };
/* Change the flags of the live memslot with that version of the ioctl. */
void test_vm_set_flags(struct test_vm *t, enum ioctl_version version, uint32_t flags);

static inline char *page_hva(struct test_vm *t, size_t page)
{
	return t->hva + page * t->page_size;
}

static inline uint64_t page_gpa(struct test_vm *t, size_t page)
{
	return TEST_GPA + page * t->page_size;
}

/*
 * Write a function that returns page_value(@gpa) to the page at @to.  Its first bytes also
 * serve as data for a read, see fetch_code().
 */
void write_page(char *to, uint64_t gpa);
/* The 64 bits that the guest reads from a page of write_page(). */
uint64_t fetch_code(uint64_t gpa);

/* Put every page into the page cache through the alias; no other mapping has it. */
void fill_page_cache(struct test_vm *t);

/* Run this thread on that CPU only. */
void pin_to_cpu(int cpu);

/* Make the vCPU's next run do one access at byte @offset of the slot. */
void request(struct test_vm *t, int vcpu, enum access access, uint64_t offset);
/* The same for @count pages in a row; the run returns the sum of the values read. */
void request_pages(struct test_vm *t, int vcpu, enum access access, uint64_t offset, size_t count);

/* The guest calls @function with the address of that byte; the run returns its value. */
void request_call(struct test_vm *t, int vcpu, guest_function function, uint64_t offset);
/* The same for @count pages in a row; the run returns the sum of the values. */
void request_calls(struct test_vm *t, int vcpu, guest_function function, uint64_t offset, size_t count);
/* The same for addresses @stride bytes apart, by steps of @step modulo @count, which are coprime. */
struct guest_walk {
	guest_function function;
	uint64_t offset, count, stride, step;
};
void request_walk(struct test_vm *t, int vcpu, const struct guest_walk *walk);

/*
 * KVM_RUN, repeated on EINTR.  Returns zero or a negative errno.  It presets exit_reason
 * of kvm_run to a value that no kernel uses, so that a stale one cannot pass for KVM's.
 */
int run_vcpu(struct kvm_vcpu *vcpu);
/* The last run failed; it must have been with KVM_EXIT_MEMORY_FAULT for that page. */
void check_memory_fault(struct test_vm *t, int vcpu, int error, size_t page);
/* KVM_RUN; the access must complete.  Returns what the guest read or fetched. */
uint64_t run_to_completion(struct test_vm *t, int vcpu);
/* The guest's report in the run that has just succeeded. */
uint64_t completion(struct test_vm *t, int vcpu);
/* KVM_RUN; it must fail with KVM_EXIT_MEMORY_FAULT for the given page and nothing else. */
void run_to_memory_fault(struct test_vm *t, int vcpu, size_t page);

/* The value that the guest gets from @access at byte @offset of a page of write_page(@gpa). */
uint64_t expected(enum access access, uint64_t gpa, uint64_t offset);
/* vCPU 0 does @access to @page, filled by write_page(), and goes on at once. */
void access_completes(struct test_vm *t, enum access access, size_t page);
/* vCPU 0 does @access to @page, exits, and goes on once the page is resolved. */
void access_exits(struct test_vm *t, enum access access, size_t page);

/* The vCPU statistic "exits": how often it left the guest. */
uint64_t vcpu_exits(struct kvm_vcpu *vcpu);

/* Write to a knob of /sys; must succeed. */
void write_file(const char *path, const char *text);

/* --- userfaultfd, and a VMM's answer to an exit: lib_userfault.c --- */

/* Register the slot; mode MISSING, MINOR or both.  With MINOR, pages come from the page cache. */
void uffd_register(struct test_vm *t, int mode);

/*
 * Provide the granule around @hva.  Returns zero or a negative errno; -EEXIST if it
 * was there already.  Wakes the threads that sleep on it only if @wake is set.
 */
int provide(struct test_vm *t, char *hva, bool wake);
/* The same for a reader: wakes the threads that sleep on the granule, whoever provided it. */
int provide_and_wake(struct test_vm *t, char *start);

/*
 * In the vCPU's thread, resolve the KVM_EXIT_MEMORY_FAULT of the last run, waking no one.
 * @error is the return value of run_vcpu().  Returns whether this call fetched the page.
 */
bool resolve(struct test_vm *t, struct kvm_vcpu *vcpu, int error);

/*
 * The granule around @hva came unrequested: put @data into the page cache and provide it,
 * unless a thread has fetched it or is about to.  Returns whether it was used.
 */
bool arrive(struct test_vm *t, char *hva, const void *data);
/* Wait until all granules have been fetched or have arrived. */
void wait_until_fetched(struct test_vm *t);

/* Make the granule around @hva present and writable; returns zero or a negative errno. */
int populate(struct test_vm *t, char *hva);

/* A thread that serves userfaultfd as a VMM does, and records its messages. */
struct reader {
	struct test_vm *t;
	pthread_t thread;
	int stop[2];
	uint64_t faults;	/* messages served */
	uint64_t last;		/* address of the last one */
	uint32_t task;		/* that faulted last */
};

void reader_start(struct reader *r, struct test_vm *t);
void reader_stop(struct reader *r);

/*
 * Make KVM itself write to guest memory at @gpa during the next KVM_RUN: steal time.
 * The address must be 64-byte aligned.
 */
void request_steal_time(struct test_vm *t, int vcpu, uint64_t gpa);

#endif
