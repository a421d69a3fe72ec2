// SPDX-License-Identifier: GPL-2.0
/*
 * The asker: the task whose allocation met the OOM. It begins the victim's grace
 * or joins one, waits, and then decides what becomes of the victim.
 */

#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>

#include <linux/graceful_shutdown.h>
#include "graceful_shutdown.h"

/* What to do about a chosen victim. */
enum gs_answer {
	GS_DO_KILL,
	GS_DO_RETRY,	/* the allocation */
	GS_DO_FAIL,	/* the allocation */
};

/* ---- who does not wait ------------------------------------------------- */

/*
 * It needs memory that its own grace is about. In a global OOM there is a
 * reserve for that; a charge to the victim's cgroup fails (or is forced, as the
 * kernel does it).
 */
static enum gs_answer gs_answer_session(const struct oom_control *oc)
{
	struct gs_grace *g;

	if (oc->memcg)
		return GS_DO_FAIL;
	if (oc->constraint == CONSTRAINT_NONE && gs_reserve_hand_over(false))
		return GS_DO_RETRY;
	spin_lock_irq(&gs_lock);
	g = gs_session_of(task_tgid(current));
	if (g)
		gs_grace_end(g, GS_FAILED, ENOMEM);
	spin_unlock_irq(&gs_lock);
	return GS_DO_RETRY;
}

/*
 * A victim that acts on its signal waits for the kill only when nothing is set aside
 * any more. What it has been given is free, and yet may be out of reach: below a
 * watermark that is boosted until kswapd has worked, which has given up.
 */
static bool gs_help_victim(const struct oom_control *oc)
{
	bool saves;

	if (oc->memcg || oc->constraint != CONSTRAINT_NONE)
		return false;
	spin_lock_irq(&gs_lock);
	saves = gs_victim_saves_itself();
	spin_unlock_irq(&gs_lock);
	return saves && gs_reserve_hand_over(false);
}

/* As the loser of the trylock in the page allocator does. */
static bool gs_must_not_wait(void)
{
	return current->flags & (PF_KTHREAD | PF_MEMALLOC);
}

/* ---- waiting in place -------------------------------------------------- */

/*
 * A writer of memory.max gives up on any signal. One that is itself in the domain
 * cannot be told from a charge, and waits as that does.
 */
static bool gs_waits_for_a_write(const struct oom_control *oc)
{
	return oc->memcg && oc->gfp_mask == GFP_KERNEL &&
	       !gs_in_domain(current, oc->memcg);
}

/* Let others have oom_lock for a jiffy. */
static void gs_pause(void)
{
	mutex_unlock(gs_ops->oom_lock);
	schedule_timeout_uninterruptible(1);
	mutex_lock(gs_ops->oom_lock);
}

/* An asker for @memcg begins to wait, until gs_unbill(). */
struct gs_budget *gs_bill(const struct mem_cgroup *memcg)
{
	struct gs_budget *budget;

	spin_lock_irq(&gs_lock);
	budget = gs_budget_enter(memcg);
	spin_unlock_irq(&gs_lock);
	return budget;
}

void gs_unbill(struct gs_budget *budget)
{
	spin_lock_irq(&gs_lock);
	gs_budget_leave(budget);
	spin_unlock_irq(&gs_lock);
}

/*
 * How long, in jiffies. A grace of the own domain is no longer than the budget
 * allows, and its deadline ends the wait.
 */
static long gs_wait_bound(const struct gs_grace *head,
			  const struct oom_control *oc)
{
	unsigned int left;

	if (!gs_grace_foreign(head, oc))
		return MAX_SCHEDULE_TIMEOUT;
	spin_lock_irq(&gs_lock);
	left = gs_budget_left(oc->memcg);
	spin_unlock_irq(&gs_lock);
	return msecs_to_jiffies(left);
}

/* Wait with oom_lock dropped; whether the wait came to its end. */
static bool gs_wait(struct gs_grace *head, const struct oom_control *oc)
{
	struct gs_budget *budget;
	long left;

	if (gs_must_not_wait()) {
		gs_pause();
		return false;
	}
	left = gs_wait_bound(head, oc);
	budget = gs_bill(oc->memcg);
	mutex_unlock(gs_ops->oom_lock);
	if (gs_waits_for_a_write(oc))
		left = wait_event_interruptible_timeout(head->wait,
							gs_grace_settled(head),
							left);
	else
		left = wait_event_killable_timeout(head->wait,
						   gs_grace_settled(head),
						   left);
	gs_unbill(budget);
	/* Who comes back with its signal must not spin. */
	if (left < 0)
		schedule_timeout_uninterruptible(1);
	mutex_lock(gs_ops->oom_lock);
	return left > 0;
}

/* ---- the decision ------------------------------------------------------ */

/* Might have changed while the lock was dropped. */
static bool gs_still_killable(struct mem_cgroup *domain,
			      struct task_struct *victim)
{
	struct gs_mm_facts facts;

	return victim->signal->oom_score_adj != OOM_SCORE_ADJ_MIN &&
	       !gs_is_dying(victim) &&
	       gs_mm_look(victim, domain, &facts) &&
	       !facts.reaped && facts.in_domain;
}

/*
 * The victim that @head began with, with a reference, if it is still one; NULL
 * else.
 */
struct task_struct *gs_grace_victim(const struct gs_grace *head,
				    struct mem_cgroup *domain)
{
	struct task_struct *victim = get_pid_task(head->victim, PIDTYPE_TGID);

	if (victim && !gs_still_killable(domain, victim)) {
		put_task_struct(victim);
		victim = NULL;
	}
	return victim;
}

/* Whether there is enough memory; if so, the kill is not needed any more. */
static bool gs_spare(struct gs_grace *head, const struct oom_control *oc)
{
	unsigned long free_kb;

	lockdep_assert_held(gs_ops->oom_lock);
	if (!gs_enough(oc, &free_kb))
		return false;
	/* An asker for another domain cannot say it for this one. */
	if (oc->memcg == head->who.memcg &&
	    oc->constraint == head->who.constraint) {
		spin_lock_irq(&gs_lock);
		gs_grace_spare(head, free_kb);
		spin_unlock_irq(&gs_lock);
	}
	return true;
}

/* Kill @victim, whose reference is taken over. */
static enum gs_answer gs_kill(struct oom_control *oc,
			      struct task_struct *victim, long points)
{
	put_task_struct(oc->chosen);
	oc->chosen = victim;
	oc->chosen_points = points;
	return GS_DO_KILL;
}

/*
 * The first asker that is back decides for the others. It kills the victim whose
 * grace it was, also where it would choose another one by now: that one's handler
 * has run, and the other's would have to run first.
 */
static enum gs_answer gs_decide(struct gs_grace *head, struct oom_control *oc)
{
	struct task_struct *victim;
	bool kill;

	if (gs_ops->disabled() || head->fate != GS_UNDECIDED)
		return GS_DO_RETRY;
	if (gs_spare(head, oc))
		return GS_DO_RETRY;
	victim = gs_grace_victim(head, oc->memcg);
	if (!victim)
		return GS_DO_RETRY;
	spin_lock_irq(&gs_lock);
	kill = gs_grace_kill(head);
	spin_unlock_irq(&gs_lock);
	if (!kill) {
		put_task_struct(victim);
		return GS_DO_RETRY;
	}
	return gs_kill(oc, victim, head->points);
}

/*
 * A victim in the domain whose kill is due, while nobody was there to decide: who
 * asked acts on a signal, or is still on its way through reclaim. It goes before
 * one whose grace would have to run first. With a reference, or NULL.
 */
static struct task_struct *gs_overdue(const struct oom_control *oc)
{
	struct task_struct *victim;
	unsigned int index = 0;

	/* Somebody's memory elsewhere is of no use to a bounded asker. */
	if (gs_is_bounded(oc->constraint) ||
	    !gs_grace_awaits(oc->chosen, oc->memcg))
		return NULL;
	while ((victim = gs_spent_due(&index))) {
		if (gs_still_killable(oc->memcg, victim))
			break;
		put_task_struct(victim);
	}
	return victim;
}

/* ---- the hook ---------------------------------------------------------- */

static enum gs_answer gs_answer(struct oom_control *oc)
{
	enum gs_answer answer = GS_DO_RETRY;
	struct task_struct *victim;
	struct gs_grace *head;
	bool late;

	if (!READ_ONCE(gs_sysctl_enabled) || oc->order == -1 ||
	    gs_ops->disabled())
		return GS_DO_KILL;
	if (gs_session_has(task_tgid(current)))
		return gs_answer_session(oc);
	head = gs_ops->decides ? gs_ops->decides() : NULL;
	if (head)
		return gs_decide(head, oc);
	/* Inside a transaction the handler's own writes would wait for us. */
	if (current->journal_info)
		return GS_DO_KILL;

	head = gs_grace_join(oc, oc->chosen, &late);
	if (!head && late) {
		gs_pause();
		return GS_DO_RETRY;
	}
	if (!head) {
		victim = gs_overdue(oc);
		if (victim)
			return gs_kill(oc, victim, 0);
		head = gs_grace_begin(oc, oc->chosen);
	}
	if (!head)
		return GS_DO_KILL;
	if (gs_help_victim(oc)) {
		gs_grace_leave(head);
		return GS_DO_RETRY;
	}
	/* Then it waits elsewhere, and leaves the grace there. */
	if (!gs_must_not_wait() && gs_ops->leave_fault &&
	    gs_ops->leave_fault(head, oc))
		return GS_DO_FAIL;
	if (gs_wait(head, oc))
		answer = gs_decide(head, oc);
	gs_grace_leave(head);
	return answer;
}

void __graceful_shutdown_choice(struct oom_control *oc)
{
	enum gs_answer answer;

	lockdep_assert_held(gs_ops->oom_lock);
	if (!oc->chosen || oc->chosen == (void *)-1UL)
		return;
	answer = gs_answer(oc);
	if (answer == GS_DO_KILL)
		return;
	put_task_struct(oc->chosen);
	oc->chosen = answer == GS_DO_FAIL ? NULL : (void *)-1UL;
}
