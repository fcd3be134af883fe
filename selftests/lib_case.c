// SPDX-License-Identifier: GPL-2.0
/* main() of a test program: run the case that the command line names. */
#include <stdio.h>
#include <string.h>

#include "harness.h"

extern const struct test_case __start_cases[] __attribute__((weak));
extern const struct test_case __stop_cases[] __attribute__((weak));

int __attribute__((weak)) main(int argc, char *argv[])
{
	const struct test_case *c;

	for (c = __start_cases; argc == 2 && c < __stop_cases; c++) {
		if (!strcmp(c->name, argv[1])) {
			c->run();
			return 0;
		}
	}

	/* E.g. on a kernel between two bases; the file of a base has the cases that it lacks. */
	if (argc == 2)
		fprintf(stderr, "%s: no case %s: misspelt, or about what these kernel headers do not have\n", argv[0], argv[1]);
	fprintf(stderr, "usage: %s CASE, one of:\n", argv[0]);
	for (c = __start_cases; c < __stop_cases; c++)
		fprintf(stderr, "  %s\n", c->name);
	return 2;
}
