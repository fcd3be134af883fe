// SPDX-License-Identifier: GPL-2.0
/*
 * Print the frequency, in kHz, of the host's counter, which QEMU's TCG gives an x86 guest
 * as its TSC.  On a loaded host the guest cannot measure it: it times the counter against
 * an emulated timer, and gives up on the TSC if it was interrupted.
 */
#include <stdint.h>
#include <stdio.h>
#include <time.h>

static uint64_t ticks(void)
{
#ifdef __x86_64__
	return __builtin_ia32_rdtsc();
#else
	uint64_t value;

	asm volatile("isb; mrs %0, cntvct_el0" : "=r"(value));
	return value;
#endif
}

static uint64_t nanoseconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_RAW, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

int main(void)
{
	uint64_t tick = ticks(), start = nanoseconds(), took;

	do
		took = nanoseconds() - start;
	while (took < 50000000);
	printf("%llu\n", (unsigned long long)((ticks() - tick) * 1000000 / took));
	return 0;
}
