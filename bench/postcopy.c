// SPDX-License-Identifier: GPL-2.0
/*
 * Post-copy migration as a VMM does it, between two processes.
 *
 * usage: postcopy fast|uffd LATENCY_US
 *
 * The source holds the memory and sends it in the background, page by page.  It answers a
 * request for one page after LATENCY_US, on a separate Unix socket.  The destination has
 * the vCPUs, which access all pages in different orders.  With "fast" an absent page is an
 * exit, and the vCPU's thread fetches the page; with "uffd" a reader of the userfaultfd
 * does.  In both, KVM's own accesses, here to steal time, reach a reader.  When all pages
 * are there, the flag is cleared and the userfaultfd closed, while vCPUs run.
 *
 * At the end the memory must match the source's checksum, and the guest's own additions
 * must all be there.  Prints a JSON line.  Times are those of this machine's clock, which
 * means nothing on an emulated machine:
 *   pages, demand (fetched on demand), faults (messages from the userfaultfd), exits
 *   pause_ns     from the source's stop to the first KVM_RUN
 *   converge_ns  from there until all pages had arrived
 *   latency_ns   [min, median, p99, max] of the guest's accesses to pages fetched on demand;
 *                null if the guest's clock stands still while it waits, which KVM does on
 *                x86 with an unstable TSC
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "delivery.h"

#define FLAG		KVM_MEM_ABSENT_MAPPING_FAULT
#define VCPUS		2
#define READERS		2
#define PAGES		1024
#define PAGE		4096
#define WORDS		(PAGE / 8)
#define STRIDE		389	/* prime to PAGES: every page once */
#define ALL_SENT	UINT32_MAX
/* Words of a page that the destination writes to: a counter of the guest ... */
#define COUNTER		1
/* ... and KVM's steal time (64 bytes), in this page, which comes late in all orders */
#define STEAL_PAGE	984
#define STEAL_WORD	64

/* Unix sockets: one for pushed pages, and one for each thread that may fetch. */
#define CONNECTIONS	(1 + VCPUS + READERS)
static int here[CONNECTIONS], there[CONNECTIONS];

static void transfer(ssize_t (*io)(int, void *, size_t), int fd, void *data, size_t size)
{
	ssize_t n;

	for (; size; data = (char *)data + n, size -= n) {
		n = io(fd, data, size);
		TEST_ASSERT(n > 0 || (n < 0 && errno == EINTR), "the other process should be there, errno %d", n ? errno : 0);
		n = n > 0 ? n : 0;
	}
}

static void receive(int socket, void *data, size_t size)
{
	transfer(read, socket, data, size);
}

static void send_all(int socket, const void *data, size_t size)
{
	transfer((ssize_t (*)(int, void *, size_t))write, socket, (void *)data, size);
}

/* Whether the destination writes to that word: the guest's counters, steal time. */
static bool is_written(size_t index)
{
	size_t steal = STEAL_PAGE * WORDS + STEAL_WORD;

	return index % WORDS == COUNTER || (index >= steal && index < steal + 8);
}

/* Over the words that only the source writes. */
static uint64_t checksum(const uint64_t *words)
{
	uint64_t sum = 0;
	size_t i;

	for (i = 0; i < PAGES * WORDS; i++)
		if (!is_written(i))
			sum = (sum ^ words[i]) * 0x100000001b3ull;
	return sum;
}

/* --- the source: a process --- */

static uint64_t *memory;
static bool sent[PAGES];
static unsigned int latency_us;

static void *answer_requests(void *arg)
{
	int socket = (intptr_t)arg;
	uint32_t page;
	ssize_t n;

	while ((n = read(socket, &page, sizeof(page))) == sizeof(page)) {
		usleep(latency_us);
		__atomic_store_n(&sent[page], true, __ATOMIC_RELAXED);
		send_all(socket, memory + page * WORDS, PAGE);
	}
	TEST_ASSERT(!n, "a request should be whole, not %zd bytes, errno %d", n, errno);
	return NULL;
}

static void push_pages(void)
{
	uint32_t page, end = ALL_SENT;

	for (page = 0; page < PAGES; page++) {
		if (__atomic_load_n(&sent[page], __ATOMIC_RELAXED))
			continue;
		send_all(there[0], &page, sizeof(page));
		send_all(there[0], memory + page * WORDS, PAGE);
		/* The same network carries pages on demand: it is not faster for pushed ones. */
		usleep(latency_us);
	}
	send_all(there[0], &end, sizeof(end));
}

struct hello {
	uint64_t stopped_ns, checksum;
};

static void source_main(void)
{
	struct hello hello;
	pthread_t thread;
	size_t i;
	char go;

	memory = calloc(PAGES, PAGE);
	for (i = 0; i < PAGES * WORDS; i++)
		memory[i] = is_written(i) ? 0 : (i + 1) * 0x9e3779b97f4a7c15ull;
	for (i = 1; i < CONNECTIONS; i++)
		TEST_ASSERT(!pthread_create(&thread, NULL, answer_requests, (void *)(intptr_t)there[i]), "pthread_create() should work");
	receive(there[0], &go, 1);
	hello.checksum = checksum(memory);
	hello.stopped_ns = now_ns();
	send_all(there[0], &hello, sizeof(hello));
	push_pages();
	/* The destination may still ask for pages: stay until it is done. */
	receive(there[0], &go, 1);
}

/* --- the guest --- */

static uint64_t took[VCPUS][PAGES];	/* ticks of each access */
static bool all_is_here;		/* set by the host once the userfaultfd is closed */

static inline uint64_t guest_ticks(void)
{
#ifdef __x86_64__
	return rdtsc();
#elif defined(__aarch64__)
	uint64_t value;

	asm volatile("isb; mrs %0, cntvct_el0" : "=r"(value) :: "memory");
	return value;
#else
#error "which counter has the guest?"
#endif
}

static uint64_t sum_of_all(void)
{
	uint64_t page, sum = 0;

	for (page = 0; page < PAGES; page++)
		sum += READ_ONCE(*(uint64_t *)(TEST_GVA + page * PAGE));
	return sum;
}

/*
 * Access all pages, from that of @gva on.  Returns the sum of their first words, or 0 if
 * the sum differs once all pages have arrived.
 */
static uint64_t touch_all(uint64_t gva)
{
	uint64_t i, page, sum = 0, start = (gva - TEST_GVA) / PAGE, *words, before;
	int vcpu = start ? 1 : 0;

	for (i = 0; i < PAGES; i++) {
		page = (start + i * STRIDE) % PAGES;
		words = (uint64_t *)(TEST_GVA + page * PAGE);
		before = guest_ticks();
		sum += READ_ONCE(words[0]);
		took[vcpu][page] = guest_ticks() - before;
		__atomic_add_fetch(&words[COUNTER], 1, __ATOMIC_RELAXED);
	}
	while (!READ_ONCE(all_is_here))
		cpu_relax();
	return sum_of_all() == sum ? sum : 0;
}

/* --- the destination --- */

static struct test_vm t;
static bool fetched_on_demand[PAGES];
static uint64_t exits, first_run_ns;
/* Held while an exit is resolved, so that the userfaultfd is not closed meanwhile. */
static pthread_rwlock_t resolving = PTHREAD_RWLOCK_INITIALIZER;

/* Called by the thread that claimed the page: request it, and put it into the page cache. */
static void fetch(struct test_vm *vm, char *start)
{
	static int taken;
	static __thread int mine;
	uint32_t page = (start - vm->hva) / PAGE;

	if (!mine)
		mine = __atomic_add_fetch(&taken, 1, __ATOMIC_RELAXED);
	fetched_on_demand[page] = true;
	send_all(here[mine], &page, sizeof(page));
	receive(here[mine], vm->alias + page * PAGE, PAGE);
}

/* Put pushed pages into place, unless a thread has requested them. */
static void receive_pages(void)
{
	static char data[PAGE];
	uint32_t page;

	for (;;) {
		receive(here[0], &page, sizeof(page));
		if (page == ALL_SENT)
			return;
		receive(here[0], data, PAGE);
		arrive(&t, page_hva(&t, page), data);
	}
}

static void *vcpu_main(void *arg)
{
	int index = (intptr_t)arg, error, late = 0;
	uint64_t none = 0;

	request_call(&t, index, touch_all, index * (PAGES / 2 + 1) * PAGE);
	__atomic_compare_exchange_n(&first_run_ns, &none, now_ns(), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
	while ((error = run_vcpu(t.vcpus[index]))) {
		pthread_rwlock_rdlock(&resolving);
		if (t.uffd >= 0) {
			resolve(&t, t.vcpus[index], error);
		} else {
			/* An exit from before the flag was cleared: just repeat it. */
			TEST_ASSERT(error == -EFAULT && t.vcpus[index]->run->exit_reason == KVM_EXIT_MEMORY_FAULT && !late++,
				    "without the flag, KVM_RUN should not fail with %d, exit reason %u", error,
				    t.vcpus[index]->run->exit_reason);
		}
		pthread_rwlock_unlock(&resolving);
		__atomic_add_fetch(&exits, 1, __ATOMIC_RELAXED);
	}
	return (void *)completion(&t, index);
}

/* --- the result --- */

static double ns_per_tick(void)
{
#ifdef __x86_64__
	int khz = ioctl(t.vcpus[0]->fd, KVM_GET_TSC_KHZ, 0);

	TEST_ASSERT(khz > 0, "KVM_GET_TSC_KHZ should work");
	return 1e6 / khz;
#elif defined(__aarch64__)
	uint64_t hz;

	asm volatile("mrs %0, cntfrq_el0" : "=r"(hz));
	return 1e9 / hz;
#else
#error "how fast is the guest's counter?"
#endif
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* For pages fetched on demand, the longer of both vCPUs' accesses: it includes the fetch. */
static size_t latencies(uint64_t *ticks)
{
	size_t page, n = 0;

	sync_global_from_guest(t.vm, took);
	for (page = 0; page < PAGES; page++)
		if (fetched_on_demand[page] && page != STEAL_PAGE)
			ticks[n++] = took[0][page] > took[1][page] ? took[0][page] : took[1][page];
	qsort(ticks, n, sizeof(*ticks), compare);
	return n;
}

/* "null" if a latency is shorter than the source's delay. */
static void format_latencies(char *text, size_t size, const uint64_t *ticks, size_t n)
{
	double ns = ns_per_tick();

	if (ns * ticks[0] < 1000.0 * latency_us)
		snprintf(text, size, "null");
	else
		snprintf(text, size, "[%.0f, %.0f, %.0f, %.0f]", ns * ticks[0], ns * ticks[n / 2],
			 ns * ticks[n * 99 / 100], ns * ticks[n - 1]);
}

static void print_result(const char *mode, uint64_t faults, uint64_t pause_ns, uint64_t converge_ns)
{
	static uint64_t ticks[PAGES];
	size_t n = latencies(ticks);
	char text[100];

	TEST_ASSERT(n, "some page should have been fetched on demand");
	format_latencies(text, sizeof(text), ticks, n);
	printf("{\"postcopy\": \"%s\", \"latency_us\": %u, \"pages\": %d, \"demand\": %zu, \"faults\": %" PRIu64
	       ", \"exits\": %" PRIu64 ", \"pause_ns\": %" PRIu64 ", \"converge_ns\": %" PRIu64
	       ", \"latency_ns\": %s}\n", mode, latency_us, PAGES, n, faults, exits, pause_ns, converge_ns, text);
}

/* The source's content, and each vCPU's one addition to each page. */
static void check_memory(uint64_t wanted, const uint64_t *sums)
{
	uint64_t *words = (uint64_t *)t.hva, sum = 0;
	size_t page;
	int i;

	TEST_ASSERT(checksum(words) == wanted, "the memory should be the source's: 0x%lx, not 0x%lx", wanted,
		    checksum(words));
	for (page = 0; page < PAGES; page++) {
		sum += words[page * WORDS];
		TEST_ASSERT(words[page * WORDS + COUNTER] == VCPUS, "page %zu should have been accessed %d times, not %lu",
			    page, VCPUS, words[page * WORDS + COUNTER]);
	}
	for (i = 0; i < VCPUS; i++)
		TEST_ASSERT(sums[i] == sum, "vCPU %d should have read a sum of 0x%lx, not 0x%lx", i, sum, sums[i]);
}

/* All pages are there: make it a normal slot, with vCPUs running.  Returns readers' faults. */
static uint64_t finish(struct reader *readers, bool fast)
{
	uint64_t faults = 0;
	int i;

	wait_until_fetched(&t);
	if (fast)
		test_vm_set_flags(&t, V2, 0);
	for (i = 0; i < READERS; i++) {
		reader_stop(&readers[i]);
		faults += readers[i].faults;
	}
	pthread_rwlock_wrlock(&resolving);
	close(t.uffd);
	t.uffd = -1;
	pthread_rwlock_unlock(&resolving);
	return faults;
}

static void run_destination(const char *mode, bool fast)
{
	struct reader readers[READERS];
	uint64_t arrived_ns, faults, sums[VCPUS];
	pthread_t threads[VCPUS];
	struct hello hello;
	int i;

	t = test_vm_create(VCPUS, VM_MEM_SRC_SHMEM, PAGES, fast ? FLAG : 0);
	t.fetch = fetch;
	/* MINOR alone misses a page that is not in the page cache: the kernel makes one of zeros. */
	uffd_register(&t, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
	for (i = 0; i < READERS; i++)
		reader_start(&readers[i], &t);
	request_steal_time(&t, 0, page_gpa(&t, STEAL_PAGE) + STEAL_WORD * 8);

	send_all(here[0], "", 1);
	receive(here[0], &hello, sizeof(hello));
	for (i = 0; i < VCPUS; i++)
		TEST_ASSERT(!pthread_create(&threads[i], NULL, vcpu_main, (void *)(intptr_t)i), "pthread_create() should work");
	receive_pages();
	arrived_ns = now_ns();
	faults = finish(readers, fast);
	/* Both vCPUs run until now. */
	WRITE_ONCE(*(bool *)addr_gva2hva(t.vm, (uintptr_t)&all_is_here), true);
	for (i = 0; i < VCPUS; i++)
		pthread_join(threads[i], (void **)&sums[i]);
	send_all(here[0], "", 1);

	check_memory(hello.checksum, sums);
	TEST_ASSERT(fast ? exits : !exits, "%s: %lu exits", mode, exits);
	if (fast)
		TEST_ASSERT(faults, "KVM's own access should have been served by a reader");
	print_result(mode, faults, first_run_ns - hello.stopped_ns, arrived_ns - first_run_ns);
}

int main(int argc, char *argv[])
{
	bool fast = argc == 3 && !strcmp(argv[1], "fast");
	int i, ends[2];
	pid_t source;

	if (argc != 3 || (!fast && strcmp(argv[1], "uffd"))) {
		fprintf(stderr, "usage: %s fast|uffd LATENCY_US\n", argv[0]);
		return 2;
	}
	latency_us = atoi(argv[2]);
	if (fast)
		REQUIRE_FLAG();
	for (i = 0; i < CONNECTIONS; i++) {
		TEST_ASSERT(!socketpair(AF_UNIX, SOCK_STREAM, 0, ends), "socketpair() should work");
		here[i] = ends[0];
		there[i] = ends[1];
	}
	source = fork();
	TEST_ASSERT(source >= 0, "fork() should work");
	/* Each process keeps only its own ends, so that it notices when the other one dies. */
	for (i = 0; i < CONNECTIONS; i++)
		close(source ? there[i] : here[i]);
	if (!source) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		source_main();
		_exit(0);
	}
	run_destination(argv[1], fast);
	return 0;
}
