// SPDX-License-Identifier: GPL-2.0
/*
 * A TCG plugin that holds the emulated CPUs together, so that contention between them
 * can be seen on a host with fewer cores, in instructions instead of time.
 *
 * Each CPU that is not idle executes a quantum of instructions and then waits until all
 * others have; virtual time advances by a quantum.  What a marker instruction finds on
 * that clock is the critical path: instructions that had to be executed one after another.
 * There are no caches and there is no coherence: it shows serialisation, nothing else.
 *
 *   -plugin lockstep.so,quantum=2000,out=FILE[,timeout_us=5000]
 *
 * FILE has a line for each marker that a program executes, and one at the end:
 *   mark CPU TIME          TIME in instructions: quanta that are over, and what this CPU
 *                          has executed of the present one
 *   end TIME quanta=N timeouts=N idle=N
 *                          timeouts: how often a CPU went on without the others, since one
 *                          of them stood in QEMU itself; idle: quanta times idle CPUs
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "plugin.h"

/* --- the clock --- */

#define MAX_CPUS 512

/* A cache line each: the owner counts without a lock. */
static struct cpu {
	int64_t left;		/* of the present quantum; below zero: the next one's */
	bool running, waiting;
} __attribute__((aligned(64))) cpus[MAX_CPUS];

static int64_t quantum = 2000;
static long timeout_ns = 5000000;
static FILE *out;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t advanced = PTHREAD_COND_INITIALIZER;
/* All below are protected by the lock. */
static uint64_t quanta, timeouts, idle_quanta;
static unsigned int present, running, waiting;

/* Everybody who runs has arrived: a quantum is over. */
static void advance(void)
{
	unsigned int i;

	quanta++;
	idle_quanta += present - running;
	for (i = 0; i < MAX_CPUS && waiting; i++) {
		if (cpus[i].waiting) {
			cpus[i].waiting = false;
			waiting--;
		}
	}
	pthread_cond_broadcast(&advanced);
}

static void advance_if_all_wait(void)
{
	if (waiting && waiting >= running)
		advance();
}

static void wait_for_others(struct cpu *cpu)
{
	struct timespec until;

	pthread_mutex_lock(&lock);
	cpu->left += quantum;
	cpu->waiting = true;
	waiting++;
	advance_if_all_wait();
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += timeout_ns;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	while (cpu->waiting) {
		/* One that stands in QEMU, e.g. to stop all CPUs for a moment, waits for us. */
		if (pthread_cond_timedwait(&advanced, &lock, &until) == ETIMEDOUT && cpu->waiting) {
			cpu->waiting = false;
			waiting--;
			timeouts++;
		}
	}
	pthread_mutex_unlock(&lock);
}

static void executes_block(unsigned int vcpu, void *data)
{
	struct cpu *cpu = &cpus[vcpu];

	cpu->left -= (intptr_t)data;
	if (cpu->left < 0)
		wait_for_others(cpu);
}

static void executes_marker(unsigned int vcpu, void *data)
{
	(void)data;
	pthread_mutex_lock(&lock);
	fprintf(out, "mark %u %" PRIu64 "\n", vcpu, quanta * quantum + (quantum - cpus[vcpu].left));
	fflush(out);
	pthread_mutex_unlock(&lock);
}

static void set_running(unsigned int vcpu, bool runs)
{
	struct cpu *cpu = &cpus[vcpu];

	pthread_mutex_lock(&lock);
	if (cpu->running != runs) {
		cpu->running = runs;
		running += runs ? 1 : -1;
		/* Who comes back does so in the present quantum, and has all of it. */
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

/* --- translation --- */

static const struct markers *markers;

static void translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	size_t i, n = qemu_plugin_tb_n_insns(tb);

	(void)id;
	qemu_plugin_register_vcpu_tb_exec_cb(tb, executes_block, QEMU_PLUGIN_CB_NO_REGS, (void *)n);
	for (i = 0; i < n; i++)
		if (which_mark(markers, qemu_plugin_tb_get_insn(tb, i)) == MARK_TIMED)
			qemu_plugin_register_vcpu_insn_exec_cb(qemu_plugin_tb_get_insn(tb, i), executes_marker,
							       QEMU_PLUGIN_CB_NO_REGS, NULL);
}

static void at_exit(qemu_plugin_id_t id, void *data)
{
	(void)id, (void)data;
	pthread_mutex_lock(&lock);
	fprintf(out, "end %" PRIu64 " quanta=%" PRIu64 " timeouts=%" PRIu64 " idle=%" PRIu64 "\n",
		quanta * quantum, quanta, timeouts, idle_quanta);
	fclose(out);
	pthread_mutex_unlock(&lock);
}

/* --- */

static bool parse(const char *argument)
{
	if (!strncmp(argument, "quantum=", 8))
		return (quantum = atoll(argument + 8)) > 0;
	if (!strncmp(argument, "timeout_us=", 11))
		return (timeout_ns = atol(argument + 11) * 1000) > 0;
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
			fprintf(stderr, "lockstep: %s: want quantum=N, timeout_us=N or out=FILE\n", argv[i]);
			return 1;
		}
	}
	if (!markers || !out || !info->system_emulation) {
		fprintf(stderr, "lockstep: want out=FILE, and system emulation of x86_64 or aarch64\n");
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
