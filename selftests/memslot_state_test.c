// SPDX-License-Identifier: GPL-2.0
/*
 * States of a page behind a memslot, and accesses of vCPUs to them with and without
 * KVM_MEM_ABSENT_MAPPING_FAULT.  Under the flag KVM uses a page only if it is mapped
 * writable at that moment, also for reads.  So some states exit until the page is
 * populated for writing, and some exit for ever, as api.rst says.  The cases below list
 * these states: they notice a kernel that serves one of them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

#define FLAG	KVM_MEM_ABSENT_MAPPING_FAULT
#define PAGES	16
#define READ	(1u << ACCESS_READ)
#define WRITE	(1u << ACCESS_WRITE)
#define FETCH	(1u << ACCESS_FETCH)
#define ALL	(READ | WRITE | FETCH)

struct state {
	enum vm_mem_backing_src_type backing;
	/* Bring all pages, filled by write_page(), into the state. */
	void (*enter)(struct test_vm *t);
	unsigned int tried;	/* which accesses make sense */
	unsigned int unflagged;	/* which of them complete without the flag */
	unsigned int flagged;	/* and with the flag; the others exit */
	int populate;		/* return of populate(): zero cures the state */
	bool lost;		/* the contents become zero */
	bool read_cures;	/* MADV_POPULATE_READ cures it as well */
};

static void completes(struct test_vm *t, const struct state *s, enum access access, size_t page)
{
	uint64_t value;

	if (!s->lost)
		return access_completes(t, access, page);
	request(t, 0, access, page * t->page_size);
	value = run_to_completion(t, 0);
	TEST_ASSERT(access == ACCESS_WRITE ? *(uint64_t *)page_hva(t, page) == value : !value,
		    "page %zu should be zero, or what was written, not 0x%lx", page, value);
}

static void exits(struct test_vm *t, const struct state *s, enum access access, size_t page)
{
	int r;

	request(t, 0, access, page * t->page_size);
	run_to_memory_fault(t, 0, page);
	if (!s->read_cures) {
		madvise(page_hva(t, page), t->page_size, MADV_POPULATE_READ);
		run_to_memory_fault(t, 0, page);
	}
	r = populate(t, page_hva(t, page));
	TEST_ASSERT(r == s->populate, "MADV_POPULATE_WRITE should return %d, not %d", s->populate, r);
	if (r)
		run_to_memory_fault(t, 0, page);
	else
		completes(t, s, access, page);
}

/* A VM for each access: a vCPU with a pending access cannot do another one. */
static void check(const struct state *s, enum access access, uint32_t flags)
{
	unsigned int complete = flags ? s->flagged : s->unflagged;
	struct test_vm t;
	size_t page;

	t = test_vm_create(1, s->backing, PAGES, flags);
	for (page = 0; page < t.pages; page++)
		write_page(page_hva(&t, page), page_gpa(&t, page));
	s->enter(&t);
	if (complete & 1 << access)
		completes(&t, s, access, 1);
	else
		exits(&t, s, access, 1);
	test_vm_free(&t);
}

static void check_state(struct state s)
{
	enum access access;

	REQUIRE_FLAG();
	for (access = ACCESS_READ; access <= ACCESS_FETCH; access++) {
		if (!(s.tried & 1 << access))
			continue;
		check(&s, access, 0);
		check(&s, access, FLAG);
	}
}

/* --- states that populating for writing cures --- */

static void enter_zero_page(struct test_vm *t)
{
	TEST_ASSERT(!madvise(t->hva, t->pages * t->page_size, MADV_DONTNEED) &&
		    !madvise(t->hva, t->pages * t->page_size, MADV_POPULATE_READ), "madvise() should work");
}

CASE(state_zero_page)
{
	check_state((struct state){ VM_MEM_SRC_ANONYMOUS, enter_zero_page, READ | WRITE,
				    .unflagged = READ | WRITE, .lost = true });
}

static long read_number(const char *path)
{
	FILE *f = fopen(path, "r");
	long value = 0;

	TEST_ASSERT(f && fscanf(f, "%ld", &value) == 1, "%s should hold a number", path);
	fclose(f);
	return value;
}

/* Merge each page with a twin.  The merged page is read-only, in both mappings. */
static void enter_ksm(struct test_vm *t)
{
	size_t size = t->pages * t->page_size;
	char *twin = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	TEST_ASSERT(twin != MAP_FAILED, "mmap() should work");
	memcpy(twin, t->hva, size);
	TEST_ASSERT(!madvise(t->hva, size, MADV_MERGEABLE) && !madvise(twin, size, MADV_MERGEABLE),
		    "madvise() should work");
	/* Forget the pages of earlier VMs. */
	write_file("/sys/kernel/mm/ksm/run", "2");
	write_file("/sys/kernel/mm/ksm/sleep_millisecs", "1");
	write_file("/sys/kernel/mm/ksm/run", "1");
	while (read_number("/sys/kernel/mm/ksm/pages_sharing") < t->pages)
		usleep(1000);
	write_file("/sys/kernel/mm/ksm/run", "0");
	/* Merged pages stay merged.  The next check must not find this twin. */
	munmap(twin, size);
}

CASE(state_ksm)
{
	check_state((struct state){ VM_MEM_SRC_ANONYMOUS, enter_ksm, ALL, .unflagged = ALL });
	write_file("/sys/kernel/mm/ksm/run", "2");
}

/* A child keeps the pages shared, and so read-only, until this process ends. */
static void enter_fork(struct test_vm *t)
{
	pid_t parent = getpid(), child = fork();

	TEST_ASSERT(child >= 0, "fork() should work");
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		/* The parent may have ended before that request: check. */
		while (getppid() == parent)
			pause();
		_exit(0);
	}
}

CASE(state_fork)
{
	check_state((struct state){ VM_MEM_SRC_ANONYMOUS, enter_fork, ALL, .unflagged = ALL });
}

static int private_memfds[2 * ACCESS_FETCH], nr_private_memfds;

/* UFFDIO_CONTINUE maps the page cache's page read-only into a private mapping. */
static void enter_private_memfd(struct test_vm *t)
{
	size_t page, size = t->pages * t->page_size;
	int fd = memfd_create("private", MFD_ALLOW_SEALING);

	TEST_ASSERT(write(fd, t->hva, size) == size, "a memfd should be writable");
	TEST_ASSERT(mmap(t->hva, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0) == t->hva,
		    "mmap() should work");
	uffd_register(t, UFFDIO_REGISTER_MODE_MINOR);
	for (page = 0; page < t->pages; page++)
		TEST_ASSERT(!provide(t, page_hva(t, page), false), "UFFDIO_CONTINUE should work");
	private_memfds[nr_private_memfds++] = fd;
}

/* A failed lookup must keep no page reference: the kernel refuses to seal a page in use. */
CASE(state_private_memfd)
{
	check_state((struct state){ VM_MEM_SRC_ANONYMOUS, enter_private_memfd, ALL, .unflagged = ALL });
	while (nr_private_memfds--)
		TEST_ASSERT(!fcntl(private_memfds[nr_private_memfds], F_ADD_SEALS, F_SEAL_WRITE),
			    "no page should be in use any more, errno %d", errno);
}

/* A hole in shared memory: the contents are gone, for KVM as for everyone. */
static void enter_punched(struct test_vm *t)
{
	TEST_ASSERT(!madvise(t->hva, t->pages * t->page_size, MADV_REMOVE), "madvise() should work");
}

CASE(state_punched)
{
	check_state((struct state){ VM_MEM_SRC_SHMEM, enter_punched, READ | WRITE,
				    .unflagged = READ | WRITE, .lost = true, .read_cures = true });
}

#define PM_SWAPPED	(1ull << 62)

static bool all_swapped_out(struct test_vm *t)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entries[PAGES];
	size_t i, n = 0;

	TEST_ASSERT(pread(fd, entries, sizeof(entries), (uintptr_t)t->hva / t->page_size * 8) ==
		    sizeof(entries), "pagemap should be readable");
	close(fd);
	for (i = 0; i < PAGES; i++)
		n += !!(entries[i] & PM_SWAPPED);
	return n == PAGES;
}

#define SWAP_DEVICE	"/dev/ram0"

/* mkswap, for a device of 4 MiB */
static void swap_on(void)
{
	char header[4096] = {};
	uint32_t *info = (uint32_t *)(header + 1024);
	int fd = open(SWAP_DEVICE, O_WRONLY);

	info[0] = 1;			/* version */
	info[1] = 1000;			/* last page */
	memcpy(header + sizeof(header) - 10, "SWAPSPACE2", 10);
	TEST_ASSERT(write(fd, header, sizeof(header)) == sizeof(header), SWAP_DEVICE " should be writable");
	close(fd);
	TEST_ASSERT(!swapon(SWAP_DEVICE, 0), "swapon() should work, errno %d", errno);
}

static void enter_swapped(struct test_vm *t)
{
	/* Pages on another CPU's own list cannot be reclaimed yet. */
	while (!all_swapped_out(t)) {
		TEST_ASSERT(!madvise(t->hva, t->pages * t->page_size, MADV_PAGEOUT), "madvise() should work");
		usleep(1000);
	}
}

CASE(state_swapped)
{
	REQUIRE_FLAG();
	swap_on();
	check_state((struct state){ VM_MEM_SRC_ANONYMOUS, enter_swapped, ALL, .unflagged = ALL,
				    .read_cures = true });
	TEST_ASSERT(!swapoff(SWAP_DEVICE), "swapoff() should work");
}

/* --- states without a cure, as documented: such memory must not get the flag --- */

static void protect(struct test_vm *t, int prot)
{
	TEST_ASSERT(!mprotect(t->hva, t->pages * t->page_size, prot), "mprotect() should work");
}

static void enter_prot_read(struct test_vm *t)
{
	protect(t, PROT_READ);
}

/* A writable slot over a read-only mapping, which VMMs use, works only without the flag. */
CASE(state_prot_read)
{
	check_state((struct state){ VM_MEM_SRC_ANONYMOUS, enter_prot_read, ALL,
				    .unflagged = READ | FETCH, .populate = -EINVAL });
}

/* The entries in the page table are those of NUMA balancing. */
static void enter_prot_none(struct test_vm *t)
{
	protect(t, PROT_NONE);
}

CASE(state_prot_none)
{
	check_state((struct state){ VM_MEM_SRC_ANONYMOUS, enter_prot_none, ALL, .populate = -EINVAL });
}

static void enter_truncated(struct test_vm *t)
{
	TEST_ASSERT(!ftruncate(memslot2region(t->vm, TEST_SLOT)->fd, 0), "ftruncate() should work");
}

CASE(state_truncated)
{
	check_state((struct state){ VM_MEM_SRC_SHMEM, enter_truncated, ALL, .populate = -EFAULT });
}

/* Only its owner may look up such memory, and KVM is not the owner. */
static void enter_secretmem(struct test_vm *t)
{
	size_t page, size = t->pages * t->page_size;
	int fd = syscall(__NR_memfd_secret, 0);

	TEST_ASSERT(fd >= 0 && !ftruncate(fd, size), "memfd_secret() should work, errno %d", errno);
	TEST_ASSERT(mmap(t->hva, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == t->hva,
		    "mmap() should work");
	for (page = 0; page < t->pages; page++)
		write_page(page_hva(t, page), page_gpa(t, page));
}

CASE(state_secretmem)
{
	check_state((struct state){ VM_MEM_SRC_ANONYMOUS, enter_secretmem, ALL, .populate = -EINVAL });
}

/* The registers of a virtio device, which begin with a magic value.  Returns their physical address. */
static off_t find_device(void)
{
	FILE *f = fopen("/proc/iomem", "r");
	unsigned long start = 0;
	char line[256];

	while (f && fgets(line, sizeof(line), f) && !(strstr(line, "virtio") && sscanf(line, "%lx", &start) == 1))
		;
	fclose(f);
	TEST_ASSERT(start, "/proc/iomem should have a virtio device");
	return start;
}

static uint64_t guest_read32(uint64_t gva)
{
	return READ_ONCE(*(uint32_t *)gva);
}

/* Only the slow lookup finds memory without a struct page. */
CASE(state_pfnmap)
{
	off_t device = find_device();
	int fd = open("/dev/mem", O_RDWR | O_SYNC);
	struct test_vm t;
	int r;

	REQUIRE_FLAG();
	t = test_vm_create(1, VM_MEM_SRC_ANONYMOUS, PAGES, 0);
	TEST_ASSERT(mmap(t.hva, t.page_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
			 device & ~(t.page_size - 1)) == t.hva, "mmap() of /dev/mem should work, errno %d", errno);
	request_call(&t, 0, guest_read32, device & (t.page_size - 1));
	TEST_ASSERT(run_to_completion(&t, 0) == 0x74726976, "the guest should read \"virt\"");

	/* A slot made anew has no mappings left. */
	vm_set_user_memory_region(t.vm, TEST_SLOT, 0, TEST_GPA, 0, t.hva);
	test_vm_set_flags(&t, V1, FLAG);
	request_call(&t, 0, guest_read32, device & (t.page_size - 1));
	run_to_memory_fault(&t, 0, 0);
	r = populate(&t, t.hva);
	TEST_ASSERT(r == -EINVAL, "MADV_POPULATE_WRITE should return -EINVAL, not %d", r);
	run_to_memory_fault(&t, 0, 0);
	test_vm_free(&t);
}

/* --- states with an owner: userfaultfd, or the memory failure code --- */

/* Without the flag KVM maps the page read-only; then, with the flag, a write is a new lookup. */
CASE(state_mapped_read_only)
{
	struct test_vm t;

	REQUIRE_FLAG();
	t = test_vm_create(1, VM_MEM_SRC_ANONYMOUS, PAGES, 0);
	request(&t, 0, ACCESS_READ, t.page_size);
	TEST_ASSERT(!run_to_completion(&t, 0), "an absent page should read as zero");
	test_vm_set_flags(&t, V2, FLAG);
	request(&t, 0, ACCESS_WRITE, t.page_size);
	run_to_memory_fault(&t, 0, 1);
	TEST_ASSERT(!populate(&t, page_hva(&t, 1)), "populating should work");
	access_completes(&t, ACCESS_WRITE, 1);
	test_vm_free(&t);
}

/* KVM cannot use a page that userfaultfd write-protects, not even for reading. */
CASE(state_write_protected)
{
	struct uffdio_writeprotect wp = { .mode = UFFDIO_WRITEPROTECT_MODE_WP };
	struct test_vm t;

	REQUIRE_FLAG();
	t = test_vm_create(1, VM_MEM_SRC_ANONYMOUS, PAGES, FLAG);
	write_page(page_hva(&t, 1), page_gpa(&t, 1));
	uffd_register(&t, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
	wp.range = (struct uffdio_range){ (uintptr_t)page_hva(&t, 1), t.page_size };
	TEST_ASSERT(!ioctl(t.uffd, UFFDIO_WRITEPROTECT, &wp), "UFFDIO_WRITEPROTECT should work");
	request(&t, 0, ACCESS_READ, t.page_size);
	run_to_memory_fault(&t, 0, 1);
	TEST_ASSERT(provide(&t, page_hva(&t, 1), false) == -EEXIST, "the page should be there");
	run_to_memory_fault(&t, 0, 1);
	wp.mode = UFFDIO_WRITEPROTECT_MODE_DONTWAKE;
	TEST_ASSERT(!ioctl(t.uffd, UFFDIO_WRITEPROTECT, &wp), "UFFDIO_WRITEPROTECT should work");
	access_completes(&t, ACCESS_READ, 1);
	access_completes(&t, ACCESS_WRITE, 1);
	test_vm_free(&t);
}

static volatile struct { int count, code; void *address; } sigbus;

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	sigbus.count++;
	sigbus.code = info->si_code;
	sigbus.address = info->si_addr;
}

/*
 * Without the flag KVM sends SIGBUS.  With the flag the access exits like that to any
 * other unusable page, and populating the page tells the cause.
 */
static void check_poison(void (*enter)(struct test_vm *t), uint32_t flags)
{
	struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
	struct test_vm t;
	int r;

	t = test_vm_create(1, VM_MEM_SRC_ANONYMOUS, PAGES, flags);
	TEST_ASSERT(!sigaction(SIGBUS, &action, NULL), "sigaction() should work");
	enter(&t);
	sigbus.count = 0;
	request(&t, 0, ACCESS_READ, 2 * t.page_size);
	if (flags) {
		run_to_memory_fault(&t, 0, 2);
		r = populate(&t, page_hva(&t, 2));
		TEST_ASSERT(r == -EHWPOISON, "MADV_POPULATE_WRITE should return -EHWPOISON, not %d", r);
		run_to_memory_fault(&t, 0, 2);
		TEST_ASSERT(!sigbus.count, "there should be no SIGBUS");
	} else {
		r = __vcpu_run(t.vcpus[0]);
		TEST_ASSERT(r == -1 && errno == EINTR, "KVM_RUN should be interrupted, errno %d", errno);
		TEST_ASSERT(sigbus.count && sigbus.code == BUS_MCEERR_AR && sigbus.address == page_hva(&t, 2),
			    "SIGBUS should be about %p, not %p, code %d", page_hva(&t, 2), sigbus.address, sigbus.code);
	}
	test_vm_free(&t);
}

static void enter_poison_marker(struct test_vm *t)
{
	struct uffdio_poison poison = { .range = { (uintptr_t)page_hva(t, 2), t->page_size } };

	uffd_register(t, UFFDIO_REGISTER_MODE_MISSING);
	TEST_ASSERT(!ioctl(t->uffd, UFFDIO_POISON, &poison), "UFFDIO_POISON should work, errno %d", errno);
}

CASE(state_poison_marker)
{
	REQUIRE_FLAG();
	check_poison(enter_poison_marker, 0);
	check_poison(enter_poison_marker, FLAG);
}

static void enter_hwpoison(struct test_vm *t)
{
	write_page(page_hva(t, 2), page_gpa(t, 2));
	TEST_ASSERT(!madvise(page_hva(t, 2), t->page_size, MADV_HWPOISON), "madvise() should work, errno %d", errno);
}

CASE(state_hwpoison)
{
	REQUIRE_FLAG();
	check_poison(enter_hwpoison, 0);
	check_poison(enter_hwpoison, FLAG);
}

/* --- absent and present, on every backing --- */

/* Access the neighbour: it exits unless it is present as part of a huge page. */
static void check_neighbour(struct test_vm *t, size_t page, bool present)
{
	request(t, 0, ACCESS_READ, page * t->page_size);
	if (!present) {
		run_to_memory_fault(t, 0, page);
		TEST_ASSERT(!populate(t, page_hva(t, page)), "populating should work");
	}
	TEST_ASSERT(!run_to_completion(t, 0), "page %zu should be there, as zeros", page);
}

/*
 * Each access, first to an absent page, then to a present one.  The VMM provides a page,
 * or the huge page around it, by writing to it.
 */
static void check_backing(enum vm_mem_backing_src_type backing)
{
	enum access access;
	struct test_vm t;
	size_t granule, stride, page;

	REQUIRE_FLAG();
	granule = get_backing_src_pagesz(backing) / getpagesize();
	stride = granule > 1 ? granule : 2;
	t = test_vm_create(1, backing, 4 * stride, FLAG);
	for (access = ACCESS_READ; access <= ACCESS_FETCH; access++) {
		/* Not the first page of a huge one, nor of the slot */
		page = access * stride + granule / 2;
		request(&t, 0, access, page * t.page_size);
		run_to_memory_fault(&t, 0, page);
		write_page(page_hva(&t, page), page_gpa(&t, page));
		access_completes(&t, access, page);
		access_completes(&t, ACCESS_WRITE, page);
		check_neighbour(&t, page + 1, granule > 1);
	}
	test_vm_free(&t);
}

CASE(backing_anon)
{
	check_backing(VM_MEM_SRC_ANONYMOUS);
}

CASE(backing_shmem)
{
	check_backing(VM_MEM_SRC_SHMEM);
}

CASE(backing_thp)
{
	check_backing(VM_MEM_SRC_ANONYMOUS_THP);
}

CASE(backing_hugetlb)
{
	check_backing(VM_MEM_SRC_ANONYMOUS_HUGETLB);
}

/* The flag must not make mappings smaller: one fault for a whole huge page. */
CASE(huge_mapping)
{
	const enum vm_mem_backing_src_type backing = VM_MEM_SRC_ANONYMOUS_THP;
	uint64_t exits;
	struct test_vm t;
	size_t pages;

	REQUIRE_FLAG();
	pages = get_backing_src_pagesz(backing) / getpagesize();
	t = test_vm_create(1, backing, pages, FLAG);
	TEST_ASSERT(!madvise(t.hva, pages * t.page_size, MADV_POPULATE_WRITE), "madvise() should work");
	exits = vcpu_exits(t.vcpus[0]);
	request_pages(&t, 0, ACCESS_READ, 0, pages);
	run_to_completion(&t, 0);
	exits = vcpu_exits(t.vcpus[0]) - exits;
	/* The guest's page tables and the ucall take some exits, and a tick may. */
	TEST_ASSERT(exits < pages / 8, "%zu pages of one huge page took %lu exits", pages, exits);
	test_vm_free(&t);
}

/* Only headers with guest_memfd as shared memory define its flags. */
#ifdef GUEST_MEMFD_FLAG_MMAP
/* KVM does not look up guest_memfd in userspace's mappings: the flag decides nothing there. */
CASE(state_guest_memfd)
{
	struct test_vm t;
	char *mapping;
	size_t size;
	int memfd;

	REQUIRE_FLAG();
	t = test_vm_create(1, VM_MEM_SRC_ANONYMOUS, PAGES, 0);
	size = t.pages * t.page_size;
	memfd = vm_create_guest_memfd(t.vm, size, GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED);
	t.alias = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	mapping = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	TEST_ASSERT(t.alias != MAP_FAILED && mapping != MAP_FAILED, "guest_memfd should be mappable, errno %d", errno);
	fill_page_cache(&t);
	vm_set_user_memory_region(t.vm, TEST_SLOT, 0, TEST_GPA, 0, NULL);
	TEST_ASSERT(!__vm_set_user_memory_region2(t.vm, TEST_SLOT, FLAG | KVM_MEM_GUEST_MEMFD, TEST_GPA,
						  size, mapping, memfd, 0), "creating the slot should work, errno %d", errno);
	t.hva = mapping;
	access_completes(&t, ACCESS_READ, 0);
	access_completes(&t, ACCESS_WRITE, 1);
	access_completes(&t, ACCESS_FETCH, 2);
	munmap(mapping, size);
	munmap(t.alias, size);
	close(memfd);
	test_vm_free(&t);
}
#endif
