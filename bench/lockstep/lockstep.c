// SPDX-License-Identifier: GPL-2.0
/*
 * A TCG plugin that holds the emulated CPUs together.  It shows contention between them
 * on a host with fewer cores, in instructions instead of time.
 *
 * From the marker before the warm-up to the one after the last timed part, each CPU that
 * is not idle executes a quantum of instructions, then waits until all others have done so.
 * Virtual time advances by a quantum.  That clock measures the critical path: instructions
 * that had to be executed one after another.  Without caches and coherence it shows
 * serialisation and nothing else.  Elsewhere the CPUs run freely, so that boot is fast.
 *
 *   -plugin lockstep.so,quantum=250,quantum=500,out=FILE[,wait_us=20000][,spin=START-END]
 *
 * A program has one timed part per quantum.  The first quantum also covers the warm-up.
 *
 * FILE has these lines for each marker of the timed part, and one at the end:
 *   mark CPU TIME quantum=N timeouts=N
 *                          TIME in instructions: all finished quanta, plus this CPU's part
 *                          of the present one, which has N.  timeouts: how often a CPU has
 *                          gone on without the others, because one of them stood in QEMU
 *                          itself, or the host had no time for it
 *   sample ADDRESS COUNT   with spin=, after the mark that ends a part: the addresses, in
 *                          hexadecimal, that CPUs executed at the ends of their quanta
 *   spin ADDRESS COUNT     the same for CPUs that waited for a lock, between the addresses
 *                          START and END: the last address before the wait
 *   end TIME quanta=N timeouts=N idle=N
 *                          idle: quanta times idle CPUs
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "plugin.h"

static FILE *out;

/* --- the profile: samples per address, in hash tables with open addressing --- */

#define MAX_SAMPLES	(1 << 16)

static bool profile;
static bool timed;	/* between the markers of the timed part */
static uint64_t spin_start, spin_end;
static struct sample { uint64_t address, count; } samples[MAX_SAMPLES], spins[MAX_SAMPLES];

static bool is_spin(uint64_t address)
{
	return address >= spin_start && address < spin_end;
}

static void add_sample(struct sample *table, uint64_t address)
{
	size_t i, at = address >> 2;

	for (i = 0; i < MAX_SAMPLES; i++, at++) {
		struct sample *s = &table[at % MAX_SAMPLES];

		if (s->count && s->address != address)
			continue;
		s->address = address;
		s->count++;
		return;
	}
}

static void take_sample(uint64_t address, uint64_t before)
{
	if (!profile || !timed)
		return;
	if (is_spin(address))
		add_sample(spins, before);
	else
		add_sample(samples, address);
}

static void write_samples(const char *word, struct sample *table)
{
	size_t i;

	for (i = 0; i < MAX_SAMPLES; i++)
		if (table[i].count)
			fprintf(out, "%s %" PRIx64 " %" PRIu64 "\n", word, table[i].address, table[i].count);
	memset(table, 0, sizeof(samples));
}

/* --- the clock --- */

#define MAX_CPUS	512
/* Before a thread sleeps.  With fewer host CPUs than threads, a yield lets another one run. */
#define YIELDS		3

/* A cache line each: the owner counts without a lock. */
static struct cpu {
	int64_t left;		/* of the present quantum; negative: borrowed from the next */
	bool running;
	uint64_t before;	/* the last address outside of spinning */
} __attribute__((aligned(64))) cpus[MAX_CPUS];

#define MAX_QUANTA 4

static int64_t quantum_of[MAX_QUANTA], quantum;	/* of each timed part; of this one */
static size_t nr_quanta, part;
static long wait_ns = 20000000;
static bool held;
static uint32_t round_;		/* a futex; changes with each quantum */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* All below are protected by the lock. */
static uint64_t now, quanta, timeouts, idle_quanta;
static unsigned int present, running, waiting;

/*
 * The plain system call, for two reasons.  The C library's clocks are slowed down for the
 * guest.  And threads that wait for a condition would queue for its mutex once it is true.
 */
static long futex(int op, uint32_t value, const struct timespec *timeout)
{
	return syscall(SYS_futex, &round_, op | FUTEX_PRIVATE_FLAG, value, timeout, NULL, 0);
}

static void release_all(void)
{
	waiting = 0;
	__atomic_add_fetch(&round_, 1, __ATOMIC_RELEASE);
	futex(FUTEX_WAKE, INT_MAX, NULL);
}

static void advance_if_all_wait(void)
{
	if (!waiting || waiting < running)
		return;
	now += quantum;
	quanta++;
	idle_quanta += present - running;
	release_all();
}

/* A CPU in QEMU itself, which may be about to stop all CPUs, waits for us: go on alone. */
static bool give_up(uint32_t mine)
{
	bool still = false;

	pthread_mutex_lock(&lock);
	if (round_ == mine) {
		waiting--;
		timeouts++;
		still = true;
	}
	pthread_mutex_unlock(&lock);
	return still;
}

static void wait_for_others(struct cpu *cpu, uint64_t address)
{
	const struct timespec timeout = { .tv_sec = wait_ns / 1000000000, .tv_nsec = wait_ns % 1000000000 };
	uint32_t mine;
	int i;

	pthread_mutex_lock(&lock);
	cpu->left += quantum;
	mine = round_;
	take_sample(address, cpu->before);
	if (held) {
		waiting++;
		advance_if_all_wait();
	}
	pthread_mutex_unlock(&lock);
	for (i = 0; i < YIELDS; i++) {
		if (!held || __atomic_load_n(&round_, __ATOMIC_ACQUIRE) != mine)
			return;
		sched_yield();
	}
	while (held && __atomic_load_n(&round_, __ATOMIC_ACQUIRE) == mine)
		if (futex(FUTEX_WAIT, mine, &timeout) && errno == ETIMEDOUT && give_up(mine))
			return;
}

static void set_running(unsigned int vcpu, bool runs)
{
	struct cpu *cpu = &cpus[vcpu];

	pthread_mutex_lock(&lock);
	if (cpu->running != runs) {
		cpu->running = runs;
		running += runs ? 1 : -1;
		/* A CPU that wakes gets a full quantum in the current round. */
		cpu->left = quantum;
		if (!runs)
			advance_if_all_wait();
	}
	pthread_mutex_unlock(&lock);
}

static void cpu_appears(qemu_plugin_id_t id, unsigned int vcpu)
{
	(void)id;
	if (vcpu >= MAX_CPUS) {
		fprintf(stderr, "lockstep: more than %d CPUs\n", MAX_CPUS);
		exit(1);
	}
	pthread_mutex_lock(&lock);
	present++;
	pthread_mutex_unlock(&lock);
	set_running(vcpu, true);
}

static void cpu_goes(qemu_plugin_id_t id, unsigned int vcpu)
{
	(void)id;
	set_running(vcpu, false);
}

static void cpu_comes(qemu_plugin_id_t id, unsigned int vcpu)
{
	(void)id;
	set_running(vcpu, true);
}

/* --- executed code --- */

/* A block's address and length in one word: kernels and programs use less than 54 bits. */
#define LENGTH_BITS	10

static void executes_block(unsigned int vcpu, void *data)
{
	struct cpu *cpu = &cpus[vcpu];
	uint64_t address = (intptr_t)data >> LENGTH_BITS;

	if (!__atomic_load_n(&held, __ATOMIC_RELAXED))
		return;
	if (!is_spin(address))
		cpu->before = address;
	cpu->left -= (uintptr_t)data & ((1 << LENGTH_BITS) - 1);
	if (cpu->left < 0)
		wait_for_others(cpu, address);
}

/* CPUs first finish their old quantum, which ends before the timed part begins. */
static void choose_quantum(size_t of_part)
{
	part = of_part;
	quantum = quantum_of[part];
}

/* Markers come one at a time: a program has one thread that executes them. */
static void executes_warm(unsigned int vcpu, void *data)
{
	(void)vcpu, (void)data;
	pthread_mutex_lock(&lock);
	choose_quantum(0);
	waiting = 0;
	__atomic_store_n(&held, true, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&lock);
}

static void end_part(void)
{
	write_samples("sample", samples);
	write_samples("spin", spins);
	if (part + 1 < nr_quanta)
		return choose_quantum(part + 1);
	__atomic_store_n(&held, false, __ATOMIC_RELEASE);
	release_all();
}

static void executes_marker(unsigned int vcpu, void *data)
{
	(void)data;
	pthread_mutex_lock(&lock);
	fprintf(out, "mark %u %" PRIu64 " quantum=%" PRId64 " timeouts=%" PRIu64 "\n", vcpu, now + quantum - cpus[vcpu].left,
		quantum, timeouts);
	timed = !timed;
	if (!timed)
		end_part();
	fflush(out);
	pthread_mutex_unlock(&lock);
}

/* --- translation --- */

static const struct markers *markers;

static void translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	static const exec_cb on_mark[] = { [MARK_TIMED] = executes_marker, [MARK_WARM] = executes_warm, [MARK_PAGE] = NULL };
	size_t i, n = qemu_plugin_tb_n_insns(tb);
	struct qemu_plugin_insn *insn;
	exec_cb cb;
	uint64_t address = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, 0));

	(void)id;
	qemu_plugin_register_vcpu_tb_exec_cb(tb, executes_block, QEMU_PLUGIN_CB_NO_REGS, (void *)(address << LENGTH_BITS | n));
	for (i = 0; i < n; i++) {
		insn = qemu_plugin_tb_get_insn(tb, i);
		cb = on_mark[which_mark(markers, insn)];
		if (cb)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, cb, QEMU_PLUGIN_CB_NO_REGS, NULL);
	}
}

static void at_exit(qemu_plugin_id_t id, void *data)
{
	(void)id, (void)data;
	pthread_mutex_lock(&lock);
	fprintf(out, "end %" PRIu64 " quanta=%" PRIu64 " timeouts=%" PRIu64 " idle=%" PRIu64 "\n",
		now, quanta, timeouts, idle_quanta);
	fclose(out);
	pthread_mutex_unlock(&lock);
}

/* --- */

static bool parse(const char *argument)
{
	if (!strncmp(argument, "quantum=", 8))
		return nr_quanta < MAX_QUANTA && (quantum_of[nr_quanta++] = atoll(argument + 8)) > 0;
	if (!strncmp(argument, "wait_us=", 8))
		return (wait_ns = atol(argument + 8) * 1000) > 0;
	if (!strncmp(argument, "spin=", 5))
		return profile = sscanf(argument, "spin=%" SCNx64 "-%" SCNx64, &spin_start, &spin_end) == 2;
	if (!strncmp(argument, "out=", 4))
		return (out = fopen(argument + 4, "w")) != NULL;
	return false;
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
	size_t i;

	markers = find_markers(info->target_name);
	for (i = 0; i < argc; i++) {
		if (!parse(argv[i])) {
			fprintf(stderr, "lockstep: %s: want quantum=N, wait_us=N, spin=START-END or out=FILE\n", argv[i]);
			return 1;
		}
	}
	if (!markers || !out || !nr_quanta || !info->system_emulation) {
		fprintf(stderr, "lockstep: want quantum=N, out=FILE, and system emulation of x86_64 or aarch64\n");
		return 1;
	}
	qemu_plugin_register_vcpu_init_cb(id, cpu_appears);
	qemu_plugin_register_vcpu_exit_cb(id, cpu_goes);
	qemu_plugin_register_vcpu_idle_cb(id, cpu_goes);
	qemu_plugin_register_vcpu_resume_cb(id, cpu_comes);
	qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
	qemu_plugin_register_atexit_cb(id, at_exit, NULL);
	return 0;
}
