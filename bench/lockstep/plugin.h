/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The part of QEMU's TCG plugin API that the plugins here use, declared again because
 * Debian ships no header.  Also the marker instructions of the benchmark.
 *
 * PLUGIN_API is the version of the API: 1 for QEMU 6.2 to 8.2, 2 for QEMU 9.0, 3 for
 * QEMU 9.1 and later (up to 10 at least).
 */
#ifndef BENCH_LOCKSTEP_PLUGIN_H
#define BENCH_LOCKSTEP_PLUGIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef PLUGIN_API
#error "PLUGIN_API: 1 for QEMU 6.2 to 8.2, 2 for QEMU 9.0, 3 for QEMU 9.1 and later"
#endif

#define EXPORT __attribute__((visibility("default")))

/* --- QEMU's --- */

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
typedef struct qemu_info_t {
	const char *target_name;
	struct { int min, cur; } version;
	bool system_emulation;
	union {
		struct { int smp_vcpus, max_vcpus; } system;
	};
} qemu_info_t;
typedef void (*vcpu_cb)(qemu_plugin_id_t id, unsigned int vcpu);
typedef void (*exec_cb)(unsigned int vcpu, void *data);

EXPORT int qemu_plugin_version = PLUGIN_API;

void qemu_plugin_register_vcpu_init_cb(qemu_plugin_id_t id, vcpu_cb cb);
void qemu_plugin_register_vcpu_exit_cb(qemu_plugin_id_t id, vcpu_cb cb);
void qemu_plugin_register_vcpu_idle_cb(qemu_plugin_id_t id, vcpu_cb cb);
void qemu_plugin_register_vcpu_resume_cb(qemu_plugin_id_t id, vcpu_cb cb);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
		void (*cb)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, exec_cb cb,
		enum qemu_plugin_cb_flags flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, exec_cb cb,
		enum qemu_plugin_cb_flags flags, void *data);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id,
		void (*cb)(qemu_plugin_id_t id, void *data), void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t i);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
#if PLUGIN_API < 3
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
#else
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *to, size_t size);
#endif

/* Have the CPU add to a number with each execution, without a call. */
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
#if PLUGIN_API < 2
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *insn,
		enum qemu_plugin_op op, void *number, uint64_t add);
#else
typedef struct {
	struct qemu_plugin_scoreboard *score;
	size_t offset;
} qemu_plugin_u64;
struct qemu_plugin_scoreboard *qemu_plugin_scoreboard_new(size_t element_size);
uint64_t qemu_plugin_u64_get(qemu_plugin_u64 entry, unsigned int vcpu);
void qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(struct qemu_plugin_insn *insn,
		enum qemu_plugin_op op, qemu_plugin_u64 entry, uint64_t add);
#endif

/* --- the benchmark's --- */

/* Without effect on a real CPU: mark(), mark_page() and mark_warm() of bench/delivery.h. */
enum mark { MARK_NONE, MARK_TIMED, MARK_PAGE, MARK_WARM };

struct markers {
	const char *target;
	size_t size;
	uint8_t timed[4], page[4], warm[4];
};

static const struct markers *find_markers(const char *target)
{
	static const struct markers all[] = {
		/* xchg %rbx, %rbx; xchg %rcx, %rcx; xchg %rdx, %rdx */
		{ "x86_64", 3, { 0x48, 0x87, 0xdb }, { 0x48, 0x87, 0xc9 }, { 0x48, 0x87, 0xd2 } },
		/* hint #0x60; hint #0x61; hint #0x62 */
		{ "aarch64", 4, { 0x1f, 0x2c, 0x03, 0xd5 }, { 0x3f, 0x2c, 0x03, 0xd5 }, { 0x5f, 0x2c, 0x03, 0xd5 } },
	};
	size_t i;

	for (i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (!strcmp(target, all[i].target))
			return &all[i];
	return NULL;
}

static enum mark which_mark(const struct markers *m, const struct qemu_plugin_insn *insn)
{
	uint8_t bytes[16] = {};

	if (qemu_plugin_insn_size(insn) != m->size)
		return MARK_NONE;
#if PLUGIN_API < 3
	memcpy(bytes, qemu_plugin_insn_data(insn), m->size);
#else
	qemu_plugin_insn_data(insn, bytes, m->size);
#endif
	if (!memcmp(bytes, m->timed, m->size))
		return MARK_TIMED;
	if (!memcmp(bytes, m->page, m->size))
		return MARK_PAGE;
	return memcmp(bytes, m->warm, m->size) ? MARK_NONE : MARK_WARM;
}

#endif
