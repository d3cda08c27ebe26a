/*
 * A stand-in for libnvidia-ml.so.1 with two GPUs, for tests. DRIVER_MODE chooses what goes wrong:
 * ok, notloaded, mismatch, lost, hang, hanglater, segv, segvlater, abort, chatty (prints to standard output).
 * Compiled with -DOLD_DRIVER it lacks the functions that an old driver lacks.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int ret;
typedef struct device { int index; } *device;
typedef struct set { int unused; } *set;
struct memory { unsigned long long total, free, used; };
struct busy { unsigned gpu, memory; };
struct event { device d; unsigned long long type, data; unsigned gi, ci; };
struct process { unsigned pid; unsigned long long used; unsigned gi, ci; };

static struct device devices[2] = {{0}, {1}};
static struct set events;
static int names, waits;

static int mode(const char *s) { const char *m = getenv("DRIVER_MODE"); return !strcmp(m ? m : "ok", s); }
static void hang(void) { for (;;) pause(); }
static void crash(void) { *(volatile int *)0 = 1; }

ret nvmlInit_v2(void) {
	if (mode("hang")) hang();
	if (mode("segv")) crash();
	if (mode("abort")) abort();
	if (mode("chatty")) { puts("NVRM: not a message"); fflush(stdout); }
	if (mode("notloaded")) return 9;
	if (mode("mismatch")) return 18;
	return 0;
}
ret nvmlInit(void) { return nvmlInit_v2(); }
ret nvmlInitWithFlags(unsigned flags) { (void)flags; return nvmlInit_v2(); }
ret nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(ret r) { (void)r; return "fake"; }
ret nvmlSystemGetDriverVersion(char *b, unsigned n) { snprintf(b, n, "999.1-fake"); return 0; }
ret nvmlSystemGetNVMLVersion(char *b, unsigned n) { snprintf(b, n, "12.999.1"); return 0; }
ret nvmlDeviceGetCount_v2(unsigned *n) { *n = 2; return 0; }
ret nvmlDeviceGetHandleByIndex_v2(unsigned i, device *d) { if (i > 1) return 2; *d = &devices[i]; return 0; }
ret nvmlDeviceGetName(device d, char *b, unsigned n) {
	if (++names > 4) {
		if (mode("segvlater")) crash();
		if (mode("hanglater")) hang();
		if (mode("lost")) return 15;
	}
	snprintf(b, n, "Fake GPU %d", d->index);
	return 0;
}
ret nvmlDeviceGetUUID(device d, char *b, unsigned n) { snprintf(b, n, "GPU-00000000-0000-0000-0000-00000000000%d", d->index); return 0; }
ret nvmlDeviceGetMemoryInfo(device d, struct memory *m) {
	m->total = 80ULL << 30; m->used = (1ULL + d->index) << 30; m->free = m->total - m->used;
	return 0;
}
ret nvmlDeviceGetUtilizationRates(device d, struct busy *b) { b->gpu = 10 + d->index; b->memory = 5; return 0; }
ret nvmlDeviceGetTemperature(device d, int sensor, unsigned *t) { (void)sensor; *t = 40 + d->index; return 0; }
ret nvmlDeviceGetTotalEccErrors(device d, int kind, int counter, unsigned long long *n) {
	(void)counter;
	if (d->index == 1) return 3; /* not supported */
	*n = kind ? 0 : 7;
	return 0;
}
#ifndef OLD_DRIVER
ret nvmlDeviceGetPowerUsage(device d, unsigned *p) { (void)d; *p = 70000; return 0; }
ret nvmlDeviceGetCurrentClocksThrottleReasons(device d, unsigned long long *r) { *r = d->index ? 0x41 : 0x1; return 0; }
ret nvmlDeviceGetComputeRunningProcesses_v3(device d, unsigned *n, struct process *p) {
	if (d->index == 0) { *n = 0; return 0; }
	if (!p || *n < 1) { *n = 1; return 7; } /* insufficient size */
	*n = 1; p[0].pid = 4242; p[0].used = 1ULL << 30;
	return 0;
}
ret nvmlDeviceGetComputeRunningProcesses(device d, unsigned *n, struct process *p) { return nvmlDeviceGetComputeRunningProcesses_v3(d, n, p); }
ret nvmlDeviceGetSupportedEventTypes(device d, unsigned long long *t) { (void)d; *t = 0xb; return 0; }
ret nvmlDeviceRegisterEvents(device d, unsigned long long t, set s) { (void)d; (void)t; (void)s; return 0; }
ret nvmlEventSetCreate(set *s) { *s = &events; return 0; }
ret nvmlEventSetFree(set s) { (void)s; return 0; }
ret nvmlEventSetWait_v2(set s, struct event *e, unsigned ms) {
	(void)s;
	if (waits++ == 0) { e->d = &devices[1]; e->type = 8; e->data = 79; e->gi = e->ci = ~0u; return 0; }
	usleep(ms * 1000);
	return 10; /* timeout */
}
#endif
