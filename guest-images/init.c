// SPDX-License-Identifier: GPL-2.0
/*
 * PID 1 of the guest (L1): run the cases that the host names, report them as KTAP on a
 * virtio port, end the machine.
 *
 * The kernel hands unknown name=value boot parameters to PID 1 as environment:
 *   run=NAME|shell         the file in /cases that has the cases: tests, bench, scale or
 *                          profile; or a shell
 *   cases=a,b,...          the cases to run, in this order
 *   scale=N                multiply each time limit, for a slow machine
 *   timeout=N              seconds for each case, instead of its own limit
 *   seed=N stress=N ops=N vcpus=N instruction_ns=1
 *                          for the cases, which inherit the environment; the last: an
 *                          instruction is a nanosecond, since time means nothing here
 *
 * The lines on the "ktap" port, in this order:
 *   KTAP version 1, 1..N   the plan first, so that the host notices a missing result
 *   # fact key=value       facts of this machine, which the host compares
 *   # case NAME SECONDS    once per case, its limit; then its output, "# "-prefixed
 *   ok|not ok N NAME [# SKIP reason | # TIMEOUT N seconds | # exit=N | # signal=N]
 *   Bail out! reason       nothing follows; the machine was given up
 *   # end                  nothing follows; without it the machine was lost
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <dirent.h>
#include <ftw.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#define KSFT_SKIP	4
#define MAX_ARGS	32
/* Time for a killed case to die; then the machine is given up. */
#define KILL_GRACE_MS	20000

#define SETTLE_SECONDS	3

#define DEBUGFS		"/sys/kernel/debug"
#define KMEMLEAK	DEBUGFS "/kmemleak"
#define GCOV		DEBUGFS "/gcov"
/* kmemleak does not report objects younger than five seconds. */
#define KMEMLEAK_SECONDS	6

/* One line of a case file: name, arch, needs, seconds, command; see selftests/cases. */
struct test_case {
	char *name;
	unsigned int seconds;
	char *argv[MAX_ARGS];
};

static FILE *ktap, *gcov;
static bool vm_held;
static unsigned int gcov_files;

static void __attribute__((noreturn)) end_machine(void)
{
	sync();
	/* The host runs QEMU with -no-reboot: this ends it on any machine. */
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *fmt, ...)
{
	int err = errno;
	va_list args;

	va_start(args, fmt);
	printf("init: ");
	vprintf(fmt, args);
	printf(": %s\n", strerror(err));
	va_end(args);
	fflush(stdout);
	end_machine();
}

static void mount_all(void)
{
	static const struct { const char *type, *path; } mounts[] = {
		{ "devtmpfs", "/dev" },
		{ "proc", "/proc" },
		{ "sysfs", "/sys" },
		{ "tmpfs", "/tmp" },
	};

	for (size_t i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++)
		if (mount(mounts[i].type, mounts[i].path, mounts[i].type, 0, NULL))
			die("mount %s", mounts[i].path);
	/* Only some configurations have it. */
	mount("debugfs", DEBUGFS, "debugfs", 0, NULL);
}

/*
 * The kernel opened /dev/console for PID 1 before devtmpfs covered /dev, or, if
 * the image has no such node, not at all.
 */
static void open_console(void)
{
	int fd = open("/dev/console", O_RDWR);

	if (fd < 0)
		end_machine();
	for (int i = 0; i < 3; i++)
		dup2(fd, i);
	if (fd > 2)
		close(fd);
	setvbuf(stdout, NULL, _IOLBF, 0);
}

static bool read_line(const char *path, char *buf, size_t size)
{
	FILE *f = fopen(path, "r");
	bool ok = f && fgets(buf, size, f);

	if (f)
		fclose(f);
	if (ok)
		buf[strcspn(buf, "\n")] = '\0';
	return ok;
}

/* Find the virtio port called @name; its path goes to @dev. */
static bool look_for_port(const char *name, char *dev, size_t size)
{
	char path[PATH_MAX], line[64];
	struct dirent *e;
	DIR *d = opendir("/sys/class/virtio-ports");

	while (d && (e = readdir(d))) {
		snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", e->d_name);
		if (read_line(path, line, sizeof(line)) && !strcmp(line, name)) {
			snprintf(dev, size, "/dev/%s", e->d_name);
			closedir(d);
			return true;
		}
	}
	if (d)
		closedir(d);
	return false;
}

static void find_port(const char *name, char *dev, size_t size)
{
	if (look_for_port(name, dev, size))
		return;
	errno = ENODEV;
	die("no virtio port \"%s\"", name);
}

static void open_ports(void)
{
	char dev[PATH_MAX];

	find_port("ktap", dev, sizeof(dev));
	ktap = fopen(dev, "w");
	if (!ktap)
		die("open %s", dev);
	setvbuf(ktap, NULL, _IOLBF, 0);

	/* A benchmark writes its JSON lines to the file that this names. */
	find_port("bench", dev, sizeof(dev));
	setenv("BENCH_OUT", dev, 1);
}

static int run_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set);
}

static void __attribute__((noreturn)) spin_on(int cpu, int ready)
{
	struct sched_param highest = { .sched_priority = sched_get_priority_max(SCHED_FIFO) };

	if (run_on(cpu) || sched_setscheduler(0, SCHED_FIFO, &highest) || write(ready, "", 1) != 1) {
		printf("init: occupy CPU %d: %s\n", cpu, strerror(errno));
		_exit(1);
	}
	for (;;)
		;
}

/* Fork a process that leaves @cpu to nobody: highest priority, no system calls.  -1: failed. */
static pid_t occupy(int cpu)
{
	int ready[2];
	pid_t pid;
	char c;

	if (pipe(ready) || (pid = fork()) < 0)
		die("occupy CPU %d", cpu);
	if (!pid)
		spin_on(cpu, ready[1]);
	close(ready[1]);
	if (read(ready[0], &c, 1) != 1) {
		waitpid(pid, NULL, 0);
		pid = -1;
	}
	close(ready[0]);
	return pid;
}

/* Create a VM and keep its file open for good. */
static bool create_vm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm;

	if (kvm < 0)
		return false;
	/* arm64: the supported bits of IPA, since 0 stands for 40, which may be too many.  x86: 0 */
	vm = ioctl(kvm, KVM_CREATE_VM, ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_ARM_VM_IPA_SIZE));
	if (vm < 0)
		printf("init: no VM to hold: %s\n", strerror(errno));
	close(kvm);
	return vm >= 0;
}

/*
 * Hold a VM, which never runs, as long as the machine lasts.  KVM's preempt notifiers are
 * on while there is a VM, by a static key in the scheduler.  QEMU before 8.1
 * (deba78709ae8) may keep code that one CPU was translating while another one patched it.
 * vCPUs then move without kvm_sched_out() and kvm_sched_in().  So the key flips once, and
 * no other CPU may be in the scheduler meanwhile.
 */
static bool hold_vm(void)
{
	pid_t pids[CPU_SETSIZE] = {};
	int here = sched_getcpu();
	bool held = true;
	cpu_set_t all;

	if (here < 0 || sched_getaffinity(0, sizeof(all), &all) || run_on(here))
		die("stay on a CPU");
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &all) && cpu != here)
			held &= (pids[cpu] = occupy(cpu)) > 0;
	held = held && create_vm();
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (pids[cpu] > 0 && (kill(pids[cpu], SIGKILL) || waitpid(pids[cpu], NULL, 0) < 0))
			die("leave CPU %d", cpu);
	if (sched_setaffinity(0, sizeof(all), &all))
		die("leave a CPU");
	return held;
}

static void report_facts(void)
{
	struct utsname u;

	uname(&u);
	fprintf(ktap, "# fact release=%s\n", u.release);
	fprintf(ktap, "# fact cpus=%ld\n", sysconf(_SC_NPROCESSORS_ONLN));
	fprintf(ktap, "# fact page_size=%ld\n", sysconf(_SC_PAGESIZE));
	fprintf(ktap, "# fact vm=%s\n", vm_held ? "held" : "none");
	/* Boot parameters that the cases read from their environment */
	for (const char **name = (const char *[]){ "seed", "stress", "ops", "vcpus", "instruction_ns", NULL }; *name; name++)
		if (getenv(*name))
			fprintf(ktap, "# fact %s=%s\n", *name, getenv(*name));
}

/* Print them on the console: the host checks the mode by them. */
static void print_parameters(const char *module)
{
	char path[PATH_MAX], line[64];
	struct dirent *e;
	DIR *d;

	snprintf(path, sizeof(path), "/sys/module/%s/parameters", module);
	d = opendir(path);
	while (d && (e = readdir(d))) {
		snprintf(path, sizeof(path), "/sys/module/%s/parameters/%s", module, e->d_name);
		if (e->d_name[0] != '.' && read_line(path, line, sizeof(line)))
			printf("init: %s.%s=%s\n", module, e->d_name, line);
	}
	if (d)
		closedir(d);
}

static bool write_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");
	bool ok = f && fputs(text, f) >= 0;

	return f && !fclose(f) && ok;
}

/* Allocations until now are not the cases'. */
static void forget_leaks(void)
{
	if (write_file(KMEMLEAK, "scan"))
		write_file(KMEMLEAK, "clear");
}

/* Reports go to the console, where the host finds them like any other splat. */
static void print_leaks(void)
{
	char line[256];
	FILE *f;

	if (access(KMEMLEAK, R_OK))
		return;
	sleep(KMEMLEAK_SECONDS);
	/* Twice: the first scan may report an object whose pointer was in flight.  Once off, kmemleak refuses. */
	if (!write_file(KMEMLEAK, "scan") || !write_file(KMEMLEAK, "scan"))
		return;
	f = fopen(KMEMLEAK, "r");
	while (f && fgets(line, sizeof(line), f))
		printf("%s", line);
	if (f)
		fclose(f);
	printf("init: kmemleak has scanned\n");
}

/*
 * Write "path\n", the size as "%08lx\n", and the data.  At the end come "end\n" and the
 * number of files.  ci/proof/coverage.py reads it.
 */
static int send_counters(const char *path, const struct stat *st, int type, struct FTW *where)
{
	static char data[1 << 20];
	const char *suffix = strrchr(path, '.');
	size_t n;
	FILE *f;

	(void)st, (void)where;
	if (type != FTW_F || !suffix || strcmp(suffix, ".gcda"))
		return 0;
	/* The kernel gives a page at a time. */
	f = fopen(path, "r");
	n = f ? fread(data, 1, sizeof(data), f) : 0;
	if (!n || n == sizeof(data) || ferror(f))
		die("read %s", path);
	fclose(f);
	fprintf(gcov, "%s\n%08lx\n", path + strlen(GCOV), (long)n);
	fwrite(data, 1, n, gcov);
	gcov_files++;
	return 0;
}

static void send_coverage(void)
{
	char dev[PATH_MAX];

	if (!look_for_port("gcov", dev, sizeof(dev)))
		return;
	gcov = fopen(dev, "w");
	if (!gcov || nftw(GCOV, send_counters, 16, FTW_PHYS) ||
	    fprintf(gcov, "end\n%08x\n", gcov_files) < 0 || fclose(gcov))
		die("coverage");
}

static char *read_file(const char *path)
{
	int fd = open(path, O_RDONLY);
	struct stat st;
	char *buf;

	if (fd < 0 || fstat(fd, &st) || !(buf = malloc(st.st_size + 1)))
		die("read %s", path);
	if (read(fd, buf, st.st_size) != st.st_size)
		die("read %s", path);
	buf[st.st_size] = '\0';
	close(fd);
	return buf;
}

/* Parse a line of the case file in place.  False for a comment or blank line. */
static bool parse_case(char *line, struct test_case *c)
{
	char *save, *word = strtok_r(line, " \t", &save);
	int n = 0;

	if (!word || *word == '#')
		return false;
	c->name = word;
	strtok_r(NULL, " \t", &save);	/* arch: the host has chosen */
	strtok_r(NULL, " \t", &save);	/* needs: for the host's verdict */
	word = strtok_r(NULL, " \t", &save);
	c->seconds = word ? atoi(word) : 0;
	while (n < MAX_ARGS - 1 && (word = strtok_r(NULL, " \t", &save)))
		c->argv[n++] = word;
	c->argv[n] = NULL;
	return n > 0 && c->seconds > 0;
}

static bool find_case(const char *file, const char *name, struct test_case *c)
{
	char *text = strdup(file), *save;

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (parse_case(line, c) && !strcmp(c->name, name))
			return true;	/* @c points into @text: don't free it */
	free(text);
	return false;
}

static void __attribute__((noreturn)) exec_case(const struct test_case *c, int out)
{
	char path[PATH_MAX];

	/* A session of its own can be killed as a whole. */
	setsid();
	dup2(out, 1);
	dup2(out, 2);
	close(out);
	/* The KVM selftests library opens the program itself by argv[0], for the guest. */
	if (chdir("/bin"))
		die("chdir /bin");
	snprintf(path, sizeof(path), "/bin/%s", c->argv[0]);
	execv(path, c->argv);
	printf("exec %s: %s\n", path, strerror(errno));
	fflush(stdout);
	_exit(127);
}

static long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* The lines that a case prints.  Keeps the reason of the last "# SKIP". */
struct output {
	int fd;
	char line[1024];
	size_t len;
	char skip[256];
};

static void end_line(struct output *o)
{
	char *skip;

	o->line[o->len] = '\0';
	o->len = 0;
	fprintf(ktap, "# %s\n", o->line);
	skip = strstr(o->line, "# SKIP");
	if (skip) {
		skip += strlen("# SKIP");
		skip += strspn(skip, " -");
		snprintf(o->skip, sizeof(o->skip), "%s", skip);
	}
}

/* Pass on what there is to read.  Returns false at the end of the output. */
static bool pass_on(struct output *o)
{
	char buf[512];
	ssize_t n = read(o->fd, buf, sizeof(buf));

	for (ssize_t i = 0; i < n; i++) {
		if (buf[i] == '\n' || o->len == sizeof(o->line) - 1)
			end_line(o);
		if (buf[i] != '\n' && buf[i] != '\r')
			o->line[o->len++] = buf[i];
	}
	return n > 0;
}

/* Pass on output until it ends or @deadline.  Returns false on the latter. */
static bool pass_on_until(struct output *o, long deadline)
{
	struct pollfd p = { .fd = o->fd, .events = POLLIN };
	long left;

	while ((left = deadline - now_ms()) > 0)
		if (poll(&p, 1, left) > 0 && !pass_on(o))
			return true;
	return false;
}

/* Wait for @pid until @deadline.  Returns false if it is still there. */
static bool reap(pid_t pid, int *status, long deadline)
{
	do {
		if (waitpid(pid, status, WNOHANG) == pid)
			return true;
		usleep(1000);
	} while (now_ms() < deadline);
	return false;
}

/* Returns whether the case timed out; otherwise @status is from waitpid(). */
static bool watch_case(const struct test_case *c, pid_t pid, struct output *o, int *status)
{
	long deadline = now_ms() + c->seconds * 1000L;
	bool timed_out = !pass_on_until(o, deadline) || !reap(pid, status, deadline);

	/* Also without a timeout: no process of a case outlives it. */
	kill(-pid, SIGKILL);
	if (timed_out && !reap(pid, status, now_ms() + KILL_GRACE_MS)) {
		FILE *trigger = fopen("/proc/sysrq-trigger", "w");

		/* Show on the console where it is stuck: blocked tasks, then all CPUs. */
		for (const char *key = "wl"; trigger && *key; key++) {
			fputc(*key, trigger);
			fflush(trigger);
		}
		fprintf(ktap, "Bail out! %s cannot be killed\n", c->name);
		end_machine();
	}
	if (o->len)
		end_line(o);
	return timed_out;
}

static void report(int number, const struct test_case *c, bool timed_out, int status,
		   const char *skip)
{
	if (timed_out)
		fprintf(ktap, "not ok %d %s # TIMEOUT %u seconds\n", number, c->name, c->seconds);
	else if (WIFEXITED(status) && WEXITSTATUS(status) == KSFT_SKIP)
		fprintf(ktap, "ok %d %s # SKIP %s\n", number, c->name, skip);
	else if (WIFEXITED(status) && !WEXITSTATUS(status))
		fprintf(ktap, "ok %d %s\n", number, c->name);
	else if (WIFEXITED(status))
		fprintf(ktap, "not ok %d %s # exit=%d\n", number, c->name, WEXITSTATUS(status));
	else
		fprintf(ktap, "not ok %d %s # signal=%d\n", number, c->name, WTERMSIG(status));
}

static void run_case(int number, const struct test_case *c)
{
	struct output o = { .skip = "no reason given" };
	bool timed_out;
	int fds[2], status;
	pid_t pid;

	fprintf(ktap, "# case %s %u\n", c->name, c->seconds);
	/* On the console too: it tells whose a splat is. */
	printf("init: case %s\n", c->name);

	if (pipe2(fds, O_CLOEXEC))
		die("pipe");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid)
		exec_case(c, fds[1]);
	close(fds[1]);
	o.fd = fds[0];
	timed_out = watch_case(c, pid, &o, &status);
	close(fds[0]);
	report(number, c, timed_out, status, o.skip);
}

static int count_names(const char *names)
{
	int n = !!*names;

	for (; *names; names++)
		n += *names == ',';
	return n;
}

static unsigned int parameter(const char *name, unsigned int missing)
{
	const char *value = getenv(name);

	return value ? strtoul(value, NULL, 10) : missing;
}

static void run_cases(const char *file_name, const char *names)
{
	char *file = read_file(file_name), *list = strdup(names), *save;
	int number = 0;

	fprintf(ktap, "KTAP version 1\n1..%d\n", count_names(names));
	report_facts();
	print_parameters("kvm");
	print_parameters("kvm_amd");
	print_parameters("kvm_intel");
	forget_leaks();
	for (char *name = strtok_r(list, ",", &save); name; name = strtok_r(NULL, ",", &save)) {
		struct test_case c;

		number++;
		if (!find_case(file, name, &c)) {
			fprintf(ktap, "Bail out! no case %s in %s\n", name, file_name);
			end_machine();
		}
		c.seconds = parameter("timeout", c.seconds * parameter("scale", 1));
		run_case(number, &c);
	}
	print_leaks();
	send_coverage();
	/* The console first: a good end includes it. */
	printf("init: end\n");
	fprintf(ktap, "# end\n");
}

static void run_shell(void)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		char *argv[] = { "sh", NULL };

		setsid();
		/* The KVM selftests library opens the program by argv[0]. */
		if (chdir("/bin"))
			die("chdir /bin");
		setenv("PATH", "/bin", 1);
		setenv("PS1", "L1 # ", 1);
		setenv("HOME", "/tmp", 1);
		execv("/bin/busybox", argv);
		die("exec /bin/busybox");
	}
	waitpid(pid, &status, 0);
}

int main(void)
{
	const char *run = getenv("run"), *cases = getenv("cases");
	char file[PATH_MAX];

	mount_all();
	open_console();
	vm_held = hold_vm();
	if (run && !strcmp(run, "shell")) {
		run_shell();
	} else {
		open_ports();
		snprintf(file, sizeof(file), "/cases/%s", run ? run : "tests");
		/* L1 works in the background for a second after boot; don't measure that. */
		if (run && !strcmp(run, "bench"))
			sleep(SETTLE_SECONDS);
		run_cases(file, cases ? cases : "");
	}
	end_machine();
}
