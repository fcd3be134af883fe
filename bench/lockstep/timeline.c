// SPDX-License-Identifier: GPL-2.0
/*
 * A TCG plugin that records, to the instruction, what one emulated CPU does in the timed
 * part of the benchmark: each change between guest, kernel and userspace, and each entry
 * to some functions of the kernel.
 *
 *   -plugin timeline.so,enter=START:END,out=FILE[,at=NAME:ADDRESS]...
 *
 * enter: the function of the kernel that enters the guest.  Addresses are hexadecimal.
 * Code below the kernel's half is the guest if it follows that function, else userspace.
 *
 * FILE has these lines for each timed part, which lies between two markers:
 *   0 mark
 *   INSTRUCTIONS NAME      after so many since the marker: guest, kernel or user (executed
 *                          from here on), page (the guest is about to access the next page),
 *                          or a NAME of at= (that address is about to be executed)
 *   INSTRUCTIONS mark
 *
 * An instruction that faults counts twice: when it is tried, and when it is repeated.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "plugin.h"

#define MAX_POINTS	32
#define KERNEL		(1ull << 63)

static FILE *out;
static const struct markers *markers;

static struct point {
	char name[32];
	uint64_t address;
} points[MAX_POINTS];
static size_t nr_points;

/* --- instructions executed --- */

#if PLUGIN_API < 2
static uint64_t executed;

static void count_instruction(struct qemu_plugin_insn *insn)
{
	qemu_plugin_register_vcpu_insn_exec_inline(insn, QEMU_PLUGIN_INLINE_ADD_U64, &executed, 1);
}

static uint64_t instructions(void)
{
	return executed;
}
#else
static qemu_plugin_u64 executed;

static void count_instruction(struct qemu_plugin_insn *insn)
{
	if (!executed.score)
		executed.score = qemu_plugin_scoreboard_new(sizeof(uint64_t));
	qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(insn, QEMU_PLUGIN_INLINE_ADD_U64, executed, 1);
}

static uint64_t instructions(void)
{
	return executed.score ? qemu_plugin_u64_get(executed, 0) : 0;
}
#endif

/* --- events --- */

static bool recording;
static uint64_t since;

static void write_event(const char *name)
{
	if (recording)
		fprintf(out, "%" PRIu64 " %s\n", instructions() - since, name);
}

static void executes_mark(unsigned int vcpu, void *data)
{
	(void)vcpu, (void)data;
	if (!recording)
		since = instructions();
	fprintf(out, "%" PRIu64 " mark\n", instructions() - since);
	recording = !recording;
	fflush(out);
}

static void executes_point(unsigned int vcpu, void *name)
{
	(void)vcpu;
	write_event(name);
}

/* --- guest, kernel or userspace --- */

enum half { HALF_LOW, HALF_KERNEL, HALF_ENTER };
static struct { uint64_t start, end; } enter;

static enum half half_of(uint64_t address)
{
	if (!(address & KERNEL))
		return HALF_LOW;
	return address >= enter.start && address < enter.end ? HALF_ENTER : HALF_KERNEL;
}

static void executes_block(unsigned int vcpu, void *data)
{
	static enum { KERNEL_RUNS, GUEST_RUNS, USER_RUNS } running;
	static const char *names[] = { "kernel", "guest", "user" };
	static enum half last;
	enum half half = (uintptr_t)data;
	unsigned int now = running;

	(void)vcpu;
	if (half != HALF_LOW)
		now = KERNEL_RUNS;
	else if (last != HALF_LOW)
		now = last == HALF_ENTER ? GUEST_RUNS : USER_RUNS;
	if (now != running)
		write_event(names[now]);
	running = now;
	last = half;
}

/* --- translation --- */

static void look_at(struct qemu_plugin_insn *insn)
{
	enum mark mark = which_mark(markers, insn);
	size_t i;

	if (mark == MARK_TIMED)
		qemu_plugin_register_vcpu_insn_exec_cb(insn, executes_mark, QEMU_PLUGIN_CB_NO_REGS, NULL);
	else if (mark == MARK_PAGE)
		qemu_plugin_register_vcpu_insn_exec_cb(insn, executes_point, QEMU_PLUGIN_CB_NO_REGS, "page");
	for (i = 0; i < nr_points; i++)
		if (qemu_plugin_insn_vaddr(insn) == points[i].address)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, executes_point, QEMU_PLUGIN_CB_NO_REGS,
							       points[i].name);
	/* Last: the position of an event is the number of instructions before it. */
	count_instruction(insn);
}

static void translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	size_t i, n = qemu_plugin_tb_n_insns(tb);
	enum half half = half_of(qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, 0)));

	(void)id;
	qemu_plugin_register_vcpu_tb_exec_cb(tb, executes_block, QEMU_PLUGIN_CB_NO_REGS, (void *)half);
	for (i = 0; i < n; i++)
		look_at(qemu_plugin_tb_get_insn(tb, i));
}

static void at_exit(qemu_plugin_id_t id, void *data)
{
	(void)id, (void)data;
	fclose(out);
}

/* --- */

static bool parse(const char *argument)
{
	struct point *p = &points[nr_points];

	if (!strncmp(argument, "enter=", 6))
		return sscanf(argument + 6, "%" SCNx64 ":%" SCNx64, &enter.start, &enter.end) == 2;
	if (!strncmp(argument, "at=", 3) && nr_points < MAX_POINTS) {
		nr_points++;
		return sscanf(argument + 3, "%31[^:]:%" SCNx64, p->name, &p->address) == 2;
	}
	if (!strncmp(argument, "out=", 4))
		return (out = fopen(argument + 4, "w")) != NULL;
	return false;
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
	int i;

	markers = find_markers(info->target_name);
	for (i = 0; i < argc; i++) {
		if (!parse(argv[i])) {
			fprintf(stderr, "timeline: %s: want enter=START:END, at=NAME:ADDRESS (%d at most), out=FILE\n",
				argv[i], MAX_POINTS);
			return 1;
		}
	}
	if (!markers || !out || !enter.end || !info->system_emulation || info->system.max_vcpus != 1) {
		fprintf(stderr, "timeline: want enter=, out=, and system emulation of one CPU, x86_64 or aarch64\n");
		return 1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
	qemu_plugin_register_atexit_cb(id, at_exit, NULL);
	return 0;
}
