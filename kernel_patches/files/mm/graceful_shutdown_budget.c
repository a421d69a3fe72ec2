// SPDX-License-Identifier: GPL-2.0
/*
 * The budget of waiting: a domain (a memory cgroup with what lies below it, or
 * the machine) waits for max_grace_ms in any minute at most, so that many victims
 * with handlers that hang, one after another, do not hold it up for hours.
 */

#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/string.h>
#include <linux/timekeeping.h>

#include "graceful_shutdown.h"

#define GS_BUDGET_SPAN_S	5
#define GS_BUDGET_SPANS		13	/* a minute, and the span that has begun */
#define GS_BUDGET_DOMAINS	64

/**
 * struct gs_budget - how long a domain waited lately
 * @domain: serial number of the memcg's css, 0 for the machine
 * @span: the newest span in @ms
 * @ms: time waited, by the span in which the wait ended
 * @waits: graces of the domain that run now, and its askers that wait
 * @since_ns: when the first of them began, CLOCK_BOOTTIME
 *
 * What goes on at the same time counts once.
 */
struct gs_budget {
	u64 domain;
	unsigned int span;
	unsigned int ms[GS_BUDGET_SPANS];
	unsigned int waits;
	u64 since_ns;
};

/* Guarded by gs_lock. The last one is shared by all that find no place. */
static struct gs_budget gs_budgets[GS_BUDGET_DOMAINS];

static u64 gs_domain(const struct mem_cgroup *memcg)
{
	return memcg ? memcg->css.serial_nr : 0;
}

static unsigned int gs_span(void)
{
	return div64_u64(ktime_get_boottime_ns(),
			 GS_BUDGET_SPAN_S * (u64)NSEC_PER_SEC);
}

static unsigned int gs_budget_running(const struct gs_budget *b)
{
	if (!b->waits)
		return 0;
	return div_u64(ktime_get_boottime_ns() - b->since_ns, NSEC_PER_MSEC) + 1;
}

/* Let the spans that are too old run out; the sum of the others. */
static unsigned int gs_budget_used(struct gs_budget *b)
{
	unsigned int sum = gs_budget_running(b);
	unsigned int now = gs_span();
	int i;

	if (now - b->span >= GS_BUDGET_SPANS)
		memset(b->ms, 0, sizeof(b->ms));
	else
		while (b->span < now)
			b->ms[++b->span % GS_BUDGET_SPANS] = 0;
	b->span = now;
	for (i = 0; i < GS_BUDGET_SPANS; i++)
		sum += b->ms[i];
	return sum;
}

static struct gs_budget *gs_budget_of(const struct mem_cgroup *memcg)
{
	struct gs_budget *b, *unused = NULL;
	u64 domain = gs_domain(memcg);

	lockdep_assert_held(&gs_lock);
	for (b = gs_budgets; b < gs_budgets + GS_BUDGET_DOMAINS - 1; b++) {
		bool waited = gs_budget_used(b);

		if (waited && b->domain == domain)
			return b;
		if (!waited && !unused)
			unused = b;
	}
	if (!unused) {
		gs_budget_used(b);
		return b;
	}
	unused->domain = domain;
	return unused;
}

unsigned int gs_budget_left(const struct mem_cgroup *memcg)
{
	unsigned int used = gs_budget_used(gs_budget_of(memcg));
	unsigned int all = READ_ONCE(gs_sysctl_max_grace_ms);

	return used < all ? all - used : 0;
}

/* A wait of this domain begins. The budget stays its own until it leaves. */
struct gs_budget *gs_budget_enter(const struct mem_cgroup *memcg)
{
	struct gs_budget *b = gs_budget_of(memcg);

	if (!b->waits++)
		b->since_ns = ktime_get_boottime_ns();
	return b;
}

void gs_budget_leave(struct gs_budget *b)
{
	unsigned int took = gs_budget_running(b);

	lockdep_assert_held(&gs_lock);
	if (--b->waits)
		return;
	gs_budget_used(b); /* makes the span that has begun the newest */
	b->ms[b->span % GS_BUDGET_SPANS] += took;
}
