// SPDX-License-Identifier: GPL-2.0
/*
 * Who had its grace: a victim has one, and the next one only when some time has
 * passed without a kill. Kept by victim, not by registration: to register again
 * buys no second grace, and one registration may cover many processes.
 */

#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/pid.h>
#include <linux/timekeeping.h>

#include "graceful_shutdown.h"

#define GS_SPENT_VICTIMS	256

/* Later than that, those who needed the memory have found it. */
#define GS_DUE_NS		(2ULL * NSEC_PER_SEC)

/**
 * struct gs_spent - a victim that had its grace
 * @victim: its thread group, with a reference; NULL where the place is free
 * @until_ns: CLOCK_BOOTTIME; until then it has no other. U64_MAX from the end of
 *	one until it is known that nothing was killed
 * @outcome: how its handler ended, as the kill record has it
 * @due_ns: CLOCK_BOOTTIME; until then its kill is due, where nobody decided
 */
struct gs_spent {
	struct pid *victim;
	u64 until_ns;
	const char *outcome;
	u64 due_ns;
};

/* Guarded by gs_lock. */
static struct gs_spent gs_spent[GS_SPENT_VICTIMS];
static unsigned int gs_nr_spent;

static struct gs_spent *gs_spent_find(struct pid *victim)
{
	struct gs_spent *s;

	lockdep_assert_held(&gs_lock);
	/* Of a process that is already gone there is no thread group. */
	if (!victim || !gs_nr_spent)
		return NULL;
	for (s = gs_spent; s < gs_spent + GS_SPENT_VICTIMS; s++)
		if (s->victim == victim)
			return s;
	return NULL;
}

static void gs_spent_free(struct gs_spent *s)
{
	put_pid(s->victim);
	s->victim = NULL;
	gs_nr_spent--;
}

/* A free place, or that of the victim which may have its next grace the soonest. */
static struct gs_spent *gs_spent_place(void)
{
	struct gs_spent *s, *soonest = gs_spent;

	for (s = gs_spent; s < gs_spent + GS_SPENT_VICTIMS; s++) {
		if (!s->victim)
			return s;
		if (s->until_ns < soonest->until_ns)
			soonest = s;
	}
	gs_spent_free(soonest);
	return soonest;
}

/**
 * gs_spent_set - @victim had its grace
 * @victim: its thread group
 * @outcome: how the handler ended
 * @until_ns: CLOCK_BOOTTIME; until then there is no other
 */
void gs_spent_set(struct pid *victim, const char *outcome, u64 until_ns)
{
	struct gs_spent *s = gs_spent_find(victim);

	if (!s) {
		s = gs_spent_place();
		s->victim = get_pid(victim);
		gs_nr_spent++;
	}
	s->outcome = outcome;
	s->until_ns = until_ns;
	s->due_ns = ktime_get_boottime_ns() + GS_DUE_NS;
}

/**
 * gs_spent_spare - @victim had its grace, or could have none, and no kill is due
 * @victim: its thread group
 * @outcome: how the handler ended
 * @until_ns: CLOCK_BOOTTIME; until then there is no other
 */
void gs_spent_spare(struct pid *victim, const char *outcome, u64 until_ns)
{
	gs_spent_set(victim, outcome, until_ns);
	gs_spent_find(victim)->due_ns = 0;
}

/* How the grace of @victim ended, if that counts still; or NULL. */
const char *gs_spent_outcome(struct pid *victim)
{
	struct gs_spent *s = gs_spent_find(victim);

	return s && ktime_get_boottime_ns() < s->until_ns ? s->outcome : NULL;
}

/**
 * gs_spent_due - whose grace is over without a decision
 * @index: where to begin; set to where to go on
 *
 * Return: with a reference, or NULL.
 */
struct task_struct *gs_spent_due(unsigned int *index)
{
	struct task_struct *victim = NULL;
	u64 now = ktime_get_boottime_ns();
	struct gs_spent *s;

	spin_lock_irq(&gs_lock);
	while (!victim && gs_nr_spent && *index < GS_SPENT_VICTIMS) {
		s = &gs_spent[(*index)++];
		if (s->victim && now < s->due_ns && !gs_grace_pends(s->victim))
			victim = get_pid_task(s->victim, PIDTYPE_TGID);
	}
	spin_unlock_irq(&gs_lock);
	return victim;
}

void gs_spent_exited(struct pid *victim)
{
	struct gs_spent *s = gs_spent_find(victim);

	if (s)
		gs_spent_free(s);
}

/* Nothing is registered any more. */
void gs_spent_drop(void)
{
	struct gs_spent *s;

	spin_lock_irq(&gs_lock);
	for (s = gs_spent; s < gs_spent + GS_SPENT_VICTIMS; s++)
		if (s->victim)
			gs_spent_free(s);
	spin_unlock_irq(&gs_lock);
}
