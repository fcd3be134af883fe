// SPDX-License-Identifier: GPL-2.0
/*
 * A guest's timer with userspace as its interrupt controller.  While the timer is pending,
 * KVM masks the host's interrupt on the vCPU's CPU, each time that a vCPU is loaded.  So
 * does each return to userspace, which is why the series touches this code.  Upstream's
 * arch_timer covers the in-kernel GIC.
 */
#include <errno.h>

#include "arch_timer.h"
#include "harness.h"

#define ROUNDS	20

/* The guest waits so long for the host to notice that its timer has expired. */
#define WAIT_MS	3000
/* Then it goes on for so long with the timer pending */
#define PENDING_MS	5

static bool interrupted;	/* set by the host */

static void wait_ms(unsigned int ms)
{
	uint64_t end = timer_get_cntct(VIRTUAL) + msec_to_cycles(ms);

	while (timer_get_cntct(VIRTUAL) < end)
		;
}

/* Returns whether it was interrupted in time; first leaves the timer pending for a while. */
static uint64_t guest_start(uint64_t gva)
{
	uint64_t end = timer_get_cntct(VIRTUAL) + msec_to_cycles(WAIT_MS);
	bool in_time;

	timer_set_cval(VIRTUAL, 0);
	timer_set_ctl(VIRTUAL, CTL_ENABLE);
	while (!READ_ONCE(interrupted) && timer_get_cntct(VIRTUAL) < end)
		;
	in_time = timer_get_cntct(VIRTUAL) < end;
	wait_ms(PENDING_MS);
	return in_time;
}

static uint64_t guest_stop(uint64_t gva)
{
	timer_set_ctl(VIRTUAL, 0);
	return 1;
}

static bool is_pending(struct test_vm *t, int vcpu)
{
	return t->vcpus[vcpu]->run->s.regs.device_irq_level & KVM_ARM_DEV_EL1_VTIMER;
}

/*
 * How often that CPU has taken the interrupt.  If it is masked by mistake, the host still
 * notices the expired timer at its next tick, and only this number shows the mistake.
 */
static unsigned long interrupts_on(int cpu)
{
	unsigned long count = 0;
	char line[4096], *rest, *end;
	bool found = false;
	FILE *f = fopen("/proc/interrupts", "r");
	int i;

	TEST_ASSERT(f, "/proc/interrupts should be there");
	while (!found && fgets(line, sizeof(line), f))
		found = strstr(line, "kvm guest vtimer");
	TEST_ASSERT(found, "/proc/interrupts should have \"kvm guest vtimer\"");
	fclose(f);
	/* One column for each online CPU; all CPUs are online. */
	for (i = 0, rest = strchr(line, ':') + 1; i <= cpu; i++, rest = end) {
		count = strtoul(rest, &end, 10);
		TEST_ASSERT(end > rest, "/proc/interrupts should have a number for CPU %d", i);
	}
	return count;
}

/* KVM_RUN until the guest reports; KVM also exits for each change of the interrupt line. */
static uint64_t run_on(struct test_vm *t, int vcpu, int cpu)
{
	pin_to_cpu(cpu);
	return run_to_completion(t, vcpu);
}

static void set_interrupted(struct test_vm *t, bool value)
{
	interrupted = value;
	sync_global_to_guest(t->vm, interrupted);
}

/* The vCPU's timer expires on that CPU, and KVM reports it. */
static void fires_on(struct test_vm *t, int vcpu, int cpu)
{
	struct kvm_run *run = t->vcpus[vcpu]->run;
	unsigned long before = interrupts_on(cpu);
	int r;

	set_interrupted(t, false);
	request_call(t, vcpu, guest_start, 0);
	pin_to_cpu(cpu);
	do {
		r = __vcpu_run(t->vcpus[vcpu]);
	} while (r && errno == EINTR && !is_pending(t, vcpu));
	TEST_ASSERT(r && errno == EINTR && run->exit_reason == KVM_EXIT_INTR && is_pending(t, vcpu),
		    "the timer of vCPU %d should interrupt it on CPU %d, not KVM_RUN return %d, exit reason %u, level 0x%llx",
		    vcpu, cpu, r, run->exit_reason, run->s.regs.device_irq_level);
	TEST_ASSERT(interrupts_on(cpu) == before + 1, "CPU %d should have been interrupted once by the timer of vCPU %d, not %lu times",
		    cpu, vcpu, interrupts_on(cpu) - before);
}

/* The vCPU goes on there with its timer still pending, without another interrupt. */
static void goes_on_pending(struct test_vm *t, int vcpu, int cpu)
{
	unsigned long before = interrupts_on(cpu);

	set_interrupted(t, true);
	TEST_ASSERT(run_on(t, vcpu, cpu) == 1, "vCPU %d should be interrupted within %d ms", vcpu, WAIT_MS);
	TEST_ASSERT(is_pending(t, vcpu), "the timer of vCPU %d should still be pending", vcpu);
	TEST_ASSERT(interrupts_on(cpu) == before, "CPU %d should not be interrupted again by the timer of vCPU %d", cpu, vcpu);
}

static void stops_on(struct test_vm *t, int vcpu, int cpu)
{
	request_call(t, vcpu, guest_stop, 0);
	TEST_ASSERT(run_on(t, vcpu, cpu) == 1, "vCPU %d should stop its timer", vcpu);
	TEST_ASSERT(!is_pending(t, vcpu), "the timer of vCPU %d should not be pending any more", vcpu);
}

CASE(timer_masked_while_pending)
{
	struct test_vm t = test_vm_create(1, VM_MEM_SRC_ANONYMOUS, 1, 0);
	int i;

	for (i = 0; i < ROUNDS; i++) {
		fires_on(&t, 0, 0);
		goes_on_pending(&t, 0, 0);
		stops_on(&t, 0, 0);
	}
	test_vm_free(&t);
}

/* A mask for one vCPU must not hold for the next one on that CPU, and must follow its vCPU. */
CASE(timer_migrates)
{
	struct test_vm t = test_vm_create(2, VM_MEM_SRC_ANONYMOUS, 1, 0);
	int i;

	for (i = 0; i < ROUNDS; i++) {
		fires_on(&t, 0, 0);
		goes_on_pending(&t, 0, 1);
		fires_on(&t, 1, 0);
		goes_on_pending(&t, 1, 1);
		stops_on(&t, 0, 0);
		fires_on(&t, 0, 1);
		goes_on_pending(&t, 0, 0);
		stops_on(&t, 1, 1);
		stops_on(&t, 0, 1);
	}
	test_vm_free(&t);
}
