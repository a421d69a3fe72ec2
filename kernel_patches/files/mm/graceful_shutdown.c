// SPDX-License-Identifier: GPL-2.0
/*
 * Graceful shutdown: a registered process gets a handler run before the OOM
 * killer kills it.
 *
 * The victim is chosen as ever. If it is registered, its grace begins: the
 * handler is started and the asker, whose allocation met the OOM, waits with
 * oom_lock dropped until the handler has ended, the deadline has passed, or the
 * victim is gone. Then it takes the lock again, looks whether there is memory
 * now, and either kills or lets the allocation be tried again.
 *
 * What must hold:
 *
 *  - The kill is guaranteed. Nothing that a handler does puts it off beyond the
 *    deadline, and a domain (a memory cgroup with what lies below it, or the
 *    machine) waits for max_grace_ms in any minute at most.
 *  - Who belongs to a handler's session never waits for a grace.
 *  - Nothing is allocated between the choice and the kill.
 *
 * See Documentation/admin-guide/mm/graceful_shutdown.rst for the interface.
 */

#include <linux/cgroup.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/page_counter.h>
#include <linux/proc_fs.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/seq_file.h>
#include <linux/sizes.h>
#include <linux/sysctl.h>
#include <linux/workqueue.h>

#include <linux/graceful_shutdown.h>
#include "graceful_shutdown.h"
#include "graceful_shutdown_compat.h"

/* After its grace an entry gets none for this many times its grace time. */
#define GS_SPENT_GRACES		10

/* Of a budget that is nearly used up: less than this is no grace at all. */
#define GS_WORTHWHILE_MS	100U

/*
 * Who waited for a grace decides, unless it does not come to it for so long: it
 * may sit in a cgroup that has used up its share of the processors.
 */
#define GS_LATE_NS		NSEC_PER_SEC

/* How long everything stays ready after the last registration has gone. */
#define GS_IDLE_DELAY		(10 * HZ)

DEFINE_STATIC_KEY_FALSE(graceful_shutdown_active);

const struct graceful_shutdown_ops *gs_ops __read_mostly;
DEFINE_SPINLOCK(gs_lock);

static int gs_sysctl_enabled = 1;
int gs_sysctl_grace_ms = 2000;
int gs_sysctl_max_grace_ms = 30000;
int gs_sysctl_max_entries = 65536;
int gs_sysctl_max_running = 16;

/* Guarded by gs_lock. */
static struct gs_grace gs_graces[GS_MAX_RUNNING];
static unsigned int gs_nr_graces;

/* Guarded by gs_state_mutex. */
static DEFINE_MUTEX(gs_state_mutex);
static unsigned int gs_pins;	/* writers that are about to register */
static bool gs_active;
static unsigned long gs_idle_from;	/* jiffies; not idle before */

/* Of gs_upkeep_work alone. */
static unsigned long gs_retry_delay = HZ / 10;

static void gs_upkeep(struct work_struct *work);
static DECLARE_DELAYED_WORK(gs_upkeep_work, gs_upkeep);

/* What to do about a chosen victim. */
enum gs_answer {
	GS_DO_KILL,
	GS_DO_RETRY,	/* the allocation */
	GS_DO_FAIL,	/* the allocation */
};

/* ---- small facts ------------------------------------------------------- */

static unsigned int gs_elapsed_us(const struct gs_grace *g)
{
	return div_u64(ktime_get_boottime_ns() - g->begin_ns, NSEC_PER_USEC);
}

/*
 * Uncertain means yes: who is on its way out gets no grace. A process whose main
 * thread alone has gone is not.
 */
static bool gs_is_dying(struct task_struct *task)
{
	return (task->signal->flags & SIGNAL_GROUP_EXIT) ||
	       (thread_group_empty(task) && (task->flags & PF_EXITING)) ||
	       !atomic_read(&task->signal->live) || gs_dumps_core(task) ||
	       tsk_is_oom_victim(task);
}

static bool gs_in_domain(struct task_struct *task, struct mem_cgroup *domain)
{
	struct mem_cgroup *memcg;
	bool in;

	if (!domain)
		return true;
	rcu_read_lock();
	memcg = mem_cgroup_from_task(task);
	in = memcg && mem_cgroup_is_descendant(memcg, domain);
	rcu_read_unlock();
	return in;
}

/**
 * gs_mm_look - what there is to know of a process's memory
 * @task: the process
 * @domain: a memory cgroup, NULL for the machine
 * @facts: the result
 *
 * Finds a thread that still has its mm, as find_lock_task_mm() does.
 *
 * Return: false where there is none.
 */
bool gs_mm_look(struct task_struct *task, struct mem_cgroup *domain,
		struct gs_mm_facts *facts)
{
	struct task_struct *t;
	bool found = false;

	rcu_read_lock();
	for_each_thread(task, t) {
		task_lock(t);
		if (t->mm) {
			facts->rss_kb = gs_kb(get_mm_rss(t->mm));
			facts->swap_kb = gs_kb(get_mm_counter(t->mm,
							      MM_SWAPENTS));
			facts->reaped = test_bit(MMF_OOM_SKIP, &t->mm->flags);
			facts->in_domain = gs_in_domain(t, domain);
			found = true;
		}
		task_unlock(t);
		if (found)
			break;
	}
	rcu_read_unlock();
	return found;
}

void gs_victim_init(struct gs_victim *v, struct task_struct *task,
		    const struct oom_control *oc)
{
	v->pid = task_tgid_nr(task);
	/* Not get_task_comm(): the lock that it takes ranks above gs_lock. */
	memcpy(v->comm, task->comm, sizeof(v->comm));
	v->comm[sizeof(v->comm) - 1] = '\0';
	v->uid = from_kuid_munged(&init_user_ns, task_uid(task));
	v->constraint = oc->constraint;
	v->memcg = oc->memcg;
}

/* ---- enough memory ----------------------------------------------------- */

static unsigned long gs_counter_room(struct page_counter *counter)
{
	unsigned long used = page_counter_read(counter);
	unsigned long max = READ_ONCE(counter->max);

	return used < max ? max - used : 0;
}

static unsigned long gs_memcg_room(struct mem_cgroup *memcg)
{
	unsigned long room = gs_counter_room(&memcg->memory);

	/* v1 limits memory and swap together; without that limit it is huge. */
	if (!cgroup_subsys_on_dfl(memory_cgrp_subsys))
		room = min(room, gs_counter_room(&memcg->memsw));
	return room;
}

/*
 * A part of what the domain may use: a drained stock of some pages must not pass
 * for enough, nor what kswapd finds on its way to the high watermark.
 */
static unsigned long gs_pages_wanted(const struct oom_control *oc,
				     unsigned long limit)
{
	unsigned long wanted = max(1UL << oc->order,
				   (unsigned long)SZ_1M >> PAGE_SHIFT);

	return max(min(max(wanted, limit / 64), limit / 2), 1UL);
}

/* Is there memory again? If so, how much of it, in kB. */
static bool gs_enough(const struct oom_control *oc, unsigned long *free_kb)
{
	unsigned long room;

	if (!oc->memcg) {
		/* Of a large machine this much is plenty. */
		room = min(totalram_pages(), (unsigned long)SZ_1G >> PAGE_SHIFT);
		*free_kb = gs_kb(global_zone_page_state(NR_FREE_PAGES));
		return gs_ops->zones_have(oc, gs_pages_wanted(oc, room) +
					  gs_reserve_out());
	}
	room = gs_memcg_room(oc->memcg);
	*free_kb = gs_kb(room);
	return room >= gs_pages_wanted(oc, READ_ONCE(oc->memcg->memory.max));
}

/* ---- a grace ----------------------------------------------------------- */

/* The first slot that is in use, of @g and those behind it, or NULL. */
static struct gs_grace *gs_grace_from(struct gs_grace *g)
{
	lockdep_assert_held(&gs_lock);
	for (; g < gs_graces + GS_MAX_RUNNING; g++)
		if (g->busy)
			return g;
	return NULL;
}

/* Its askers may go on. */
static bool gs_grace_settled(const struct gs_grace *g)
{
	return READ_ONCE(g->over) || READ_ONCE(g->fate) != GS_UNDECIDED;
}

static void gs_entry_spent(struct gs_entry *e, enum gs_event outcome, u64 until)
{
	e->outcome = outcome;
	e->spent_until_ns = until;
}

/* The entry that the grace began with, and the one that may have replaced it. */
static void gs_grace_spent(struct gs_grace *g, u64 until)
{
	struct gs_entry *live = gs_entry_find(g->victim);

	lockdep_assert_held(&gs_lock);
	gs_entry_spent(g->entry, g->outcome, until);
	if (live && live != g->entry)
		gs_entry_spent(live, g->outcome, until);
}

/* Nothing was killed: there may be another grace, but not at once. */
static u64 gs_rearm_ns(const struct gs_grace *g)
{
	return ktime_get_boottime_ns() +
	       (u64)g->grace_ms * GS_SPENT_GRACES * NSEC_PER_MSEC;
}

/*
 * A grace is one wait of its domain, also where nobody but kswapd asks: askers
 * that wait for it at the same time count no second time.
 */
static void gs_grace_unbill(struct gs_grace *g)
{
	if (g->budget)
		gs_budget_leave(g->budget);
	g->budget = NULL;
}

static void gs_grace_settle(struct gs_grace *g, enum gs_fate fate)
{
	lockdep_assert_held(&gs_lock);
	gs_grace_unbill(g);
	WRITE_ONCE(g->fate, fate);
	wake_up_all(&g->wait);
}

/**
 * gs_grace_end - the handler has ended, or its time is up
 * @g: the grace
 * @outcome: GS_DONE, GS_TIMEOUT or GS_FAILED
 * @value: exit status in the form of wait(2), or the error number
 *
 * From here on nothing of the session lives.
 */
void gs_grace_end(struct gs_grace *g, enum gs_event outcome, int value)
{
	lockdep_assert_held(&gs_lock);
	if (g->over)
		return;
	gs_grace_unbill(g);

	if (outcome == GS_DONE)
		gs_event_emit(outcome, &g->who, NULL,
			      " exit_status=%d elapsed_us=%u", value,
			      gs_elapsed_us(g));
	else if (outcome == GS_TIMEOUT)
		gs_event_emit(outcome, &g->who, NULL, " elapsed_us=%u",
			      gs_elapsed_us(g));
	else
		gs_event_emit(outcome, &g->who, NULL, " errno=%d", value);

	g->outcome = outcome;
	g->over_ns = ktime_get_boottime_ns();
	gs_grace_spent(g, U64_MAX);
	WRITE_ONCE(g->over, true);
	gs_session_kill(g);
	hrtimer_try_to_cancel(&g->deadline);
	wake_up_all(&g->wait);
}

static enum hrtimer_restart gs_grace_deadline(struct hrtimer *timer)
{
	struct gs_grace *g = container_of(timer, struct gs_grace, deadline);
	unsigned long flags;

	spin_lock_irqsave(&gs_lock, flags);
	/* The slot may have passed to another grace while we came here. */
	if (g->busy && ktime_get_boottime_ns() >= g->deadline_ns)
		gs_grace_end(g, GS_TIMEOUT, 0);
	spin_unlock_irqrestore(&gs_lock, flags);
	return HRTIMER_NORESTART;
}

void gs_grace_try_free(struct gs_grace *g)
{
	lockdep_assert_held(&gs_lock);
	if (!g->busy || !g->over || g->waiters || !list_empty(&g->tasks))
		return;
	/* The OOM passed, and nobody came back to decide. */
	if (g->fate == GS_UNDECIDED)
		gs_grace_spent(g, gs_rearm_ns(g));
	gs_entry_put(g->entry);
	put_pid(g->victim);
	put_pid(g->handler);
	if (g->who.memcg)
		css_put(&g->who.memcg->css);
	g->handler = NULL;
	g->busy = false;
	gs_nr_graces--;
	gs_upkeep_in(0);
}

/* The victim needs no kill any more. Its handler may go on to the deadline. */
static void gs_graces_gone(struct pid *victim)
{
	struct gs_grace *g;

	lockdep_assert_held(&gs_lock);
	for (g = gs_grace_from(gs_graces); g; g = gs_grace_from(g + 1)) {
		if (g->victim != victim || g->fate != GS_UNDECIDED)
			continue;
		gs_event_emit(GS_GONE, &g->who, NULL, " elapsed_us=%u",
			      gs_elapsed_us(g));
		gs_grace_settle(g, GS_SPARED);
	}
}

/*
 * @victim is being killed, by this OOM or by another that gives no grace. Settles
 * what runs for it; the grace that it had last, or NULL.
 */
struct gs_grace *gs_grace_killed(struct pid *victim)
{
	struct gs_grace *g, *last = NULL;

	lockdep_assert_held(&gs_lock);
	for (g = gs_grace_from(gs_graces); g; g = gs_grace_from(g + 1)) {
		if (g->victim != victim)
			continue;
		if (g->fate == GS_UNDECIDED)
			gs_grace_settle(g, GS_KILLED);
		if (!last || g->begin_ns > last->begin_ns)
			last = g;
	}
	return last;
}

bool gs_global_grace_runs(void)
{
	struct gs_grace *g;

	lockdep_assert_held(&gs_lock);
	for (g = gs_grace_from(gs_graces); g; g = gs_grace_from(g + 1))
		if (!g->over && !g->who.memcg)
			return true;
	return false;
}

/*
 * A grace to wait for: of this domain or of one below it, whoever its victim is;
 * a global ask waits for a global grace. Or one of this very victim.
 */
static bool gs_grace_concerns(const struct gs_grace *g,
			      const struct oom_control *oc,
			      struct pid *victim)
{
	if (g->fate != GS_UNDECIDED)
		return false;
	/* Over, and its askers have left or do not come back: the next one kills. */
	if (g->over && (!g->waiters ||
			ktime_get_boottime_ns() - g->over_ns > GS_LATE_NS))
		return false;
	if (g->victim == victim)
		return true;
	if (!g->who.memcg || !oc->memcg)
		return !g->who.memcg && !oc->memcg;
	return mem_cgroup_is_descendant(g->who.memcg, oc->memcg);
}

/* Is this the grace of another domain, which this one's budget did not bound? */
static bool gs_grace_foreign(const struct gs_grace *g,
			     const struct oom_control *oc)
{
	return g->who.memcg != oc->memcg;
}

/*
 * Join such a grace. One that is over is left to those who waited for it: if
 * others could still join, they might keep each other from deciding. @late says
 * that there is one.
 */
static struct gs_grace *gs_grace_join(const struct oom_control *oc,
				      struct task_struct *victim, bool *late)
{
	struct gs_grace *g, *joined = NULL;
	bool broke;

	*late = false;
	spin_lock_irq(&gs_lock);
	broke = gs_budget_left(oc->memcg) <
		min_t(unsigned int, GS_WORTHWHILE_MS, gs_sysctl_max_grace_ms);
	for (g = gs_grace_from(gs_graces); g; g = gs_grace_from(g + 1)) {
		if (!gs_grace_concerns(g, oc, task_tgid(victim)))
			continue;
		if (broke && gs_grace_foreign(g, oc))
			continue;
		if (g->over) {
			*late = true;
			continue;
		}
		g->waiters++;
		joined = g;
		break;
	}
	spin_unlock_irq(&gs_lock);
	return joined;
}

/* A free slot with a launcher. */
static struct gs_grace *gs_grace_take(struct gs_launcher **launcher)
{
	struct gs_grace *g;

	lockdep_assert_held(&gs_lock);
	if (gs_nr_graces >= READ_ONCE(gs_sysctl_max_running))
		return NULL;
	for (g = gs_graces; g->busy; g++)
		;
	*launcher = gs_launcher_take(g);
	return *launcher ? g : NULL;
}

static void gs_grace_fill(struct gs_grace *g, struct gs_entry *e,
			  struct task_struct *victim, unsigned int grace_ms,
			  const struct oom_control *oc)
{
	gs_victim_init(&g->who, victim, oc);
	if (oc->memcg)
		css_get(&oc->memcg->css);
	gs_entry_get(e);
	g->entry = e;
	g->victim = get_pid(task_tgid(victim));
	g->grace_ms = grace_ms;
	g->begin_ns = ktime_get_boottime_ns();
	g->deadline_ns = g->begin_ns + (u64)grace_ms * NSEC_PER_MSEC;
	g->budget = gs_budget_enter(oc->memcg);
	g->outcome = GS_NR_EVENTS;
	g->fate = GS_UNDECIDED;
	g->over = false;
	g->waiters = 1;
	g->busy = true;
	gs_nr_graces++;
}

/* Its entry, if this victim is to have a grace now. */
static struct gs_entry *gs_grace_due(struct task_struct *victim)
{
	struct gs_entry *e = gs_entry_find(task_tgid(victim));
	struct gs_grace *g;

	if (!e || ktime_get_boottime_ns() < e->spent_until_ns)
		return NULL;
	/* Who registers a handler gets no handler's handler. */
	if (gs_is_dying(victim) || gs_session_of(task_tgid(victim)))
		return NULL;
	/* It has its grace, which this domain may not wait for any longer. */
	for (g = gs_grace_from(gs_graces); g; g = gs_grace_from(g + 1))
		if (g->victim == task_tgid(victim) && !g->over)
			return NULL;
	return e;
}

static struct gs_grace *gs_grace_start(const struct oom_control *oc,
				       struct task_struct *victim,
				       struct gs_launcher **launcher)
{
	struct gs_entry *e = gs_grace_due(victim);
	unsigned int grace_ms, left;
	struct gs_grace *g = NULL;
	struct gs_victim who;
	int err = EBUSY;

	lockdep_assert_held(&gs_lock);
	if (!e)
		return NULL;
	grace_ms = e->grace_ms ?: READ_ONCE(gs_sysctl_grace_ms);
	left = gs_budget_left(oc->memcg);
	grace_ms = min_t(unsigned int, grace_ms, gs_sysctl_max_grace_ms);
	if (left >= min(grace_ms, GS_WORTHWHILE_MS)) {
		err = EAGAIN;
		g = gs_grace_take(launcher);
	}
	if (g) {
		gs_grace_fill(g, e, victim, min(grace_ms, left), oc);
		return g;
	}
	gs_victim_init(&who, victim, oc);
	gs_event_emit(GS_FAILED, &who, NULL, " errno=%d", err);
	gs_entry_spent(e, GS_FAILED, U64_MAX);
	return NULL;
}

static u64 gs_grace_emit(const struct gs_grace *g, const struct oom_control *oc,
			 struct task_struct *victim,
			 const struct gs_mm_facts *facts)
{
	return gs_event_emit(GS_GRACE, &g->who, g->entry->argv[0],
			     " handler_pid=%d signal=- grace_ms=%u rss_kb=%lu swap_kb=%lu total_pages=%lu points=%ld oom_score_adj=%d",
			     pid_nr(g->handler), g->grace_ms, facts->rss_kb,
			     facts->swap_kb, oc->totalpages,
			     (long)oc->chosen_points,
			     victim->signal->oom_score_adj);
}

/* Begin the grace of @victim, if it has one to begin. */
static struct gs_grace *gs_grace_begin(const struct oom_control *oc,
				       struct task_struct *victim)
{
	struct gs_launcher *launcher;
	struct gs_mm_facts facts;
	struct gs_grace *g;
	u64 seq = 0;

	if (!gs_mm_look(victim, oc->memcg, &facts))
		return NULL;
	spin_lock_irq(&gs_lock);
	g = gs_grace_start(oc, victim, &launcher);
	/* Before anything else can happen to it. */
	if (g)
		seq = gs_grace_emit(g, oc, victim, &facts);
	spin_unlock_irq(&gs_lock);
	if (!g)
		return NULL;

	if (oc->constraint == CONSTRAINT_NONE)
		gs_reserve_hand_over(true);
	hrtimer_start(&g->deadline, ns_to_ktime(g->deadline_ns),
		      HRTIMER_MODE_ABS_SOFT);
	gs_launcher_go(launcher, seq, facts.rss_kb);
	return g;
}

/* ---- the asker --------------------------------------------------------- */

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

/* As the loser of the trylock in the page allocator does. */
static bool gs_must_not_wait(void)
{
	return current->flags & (PF_KTHREAD | PF_MEMALLOC);
}

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

/*
 * How long, in jiffies. A grace of the own domain is no longer than the budget
 * allows, and its deadline ends the wait.
 */
static long gs_wait_bound(const struct gs_grace *g,
			  const struct oom_control *oc)
{
	if (!gs_grace_foreign(g, oc))
		return MAX_SCHEDULE_TIMEOUT;
	return msecs_to_jiffies(gs_budget_left(oc->memcg));
}

/* Wait with oom_lock dropped; whether the wait came to its end. */
static bool gs_wait(struct gs_grace *g, const struct oom_control *oc)
{
	struct gs_budget *budget;
	long left;

	if (gs_must_not_wait()) {
		gs_pause();
		return false;
	}
	spin_lock_irq(&gs_lock);
	left = gs_wait_bound(g, oc);
	budget = gs_budget_enter(oc->memcg);
	spin_unlock_irq(&gs_lock);
	mutex_unlock(gs_ops->oom_lock);
	if (gs_waits_for_a_write(oc))
		left = wait_event_interruptible_timeout(g->wait,
							gs_grace_settled(g),
							left);
	else
		left = wait_event_killable_timeout(g->wait, gs_grace_settled(g),
						   left);
	spin_lock_irq(&gs_lock);
	gs_budget_leave(budget);
	spin_unlock_irq(&gs_lock);
	/* Who comes back with its signal must not spin. */
	if (left < 0)
		schedule_timeout_uninterruptible(1);
	mutex_lock(gs_ops->oom_lock);
	return left > 0;
}

/* Might have changed while the lock was dropped. */
static bool gs_still_killable(const struct oom_control *oc,
			      struct task_struct *victim)
{
	struct gs_mm_facts facts;

	return victim->signal->oom_score_adj != OOM_SCORE_ADJ_MIN &&
	       !gs_is_dying(victim) &&
	       gs_mm_look(victim, oc->memcg, &facts) &&
	       !facts.reaped && facts.in_domain;
}

/* The first asker that is back decides for the others. */
static enum gs_answer gs_decide(struct gs_grace *g,
				const struct oom_control *oc,
				struct task_struct *victim)
{
	enum gs_answer answer = GS_DO_RETRY;
	unsigned long free_kb;

	if (*gs_ops->oom_killer_disabled || g->fate != GS_UNDECIDED)
		return GS_DO_RETRY;
	if (gs_enough(oc, &free_kb)) {
		spin_lock_irq(&gs_lock);
		/* An asker for another domain cannot say it for this one. */
		if (g->fate == GS_UNDECIDED && oc->memcg == g->who.memcg &&
		    oc->constraint == g->who.constraint) {
			g->fate = GS_SPARED;
			gs_grace_spent(g, gs_rearm_ns(g));
			gs_event_emit(GS_AVERTED, &g->who, NULL,
				      " elapsed_us=%u free_kb=%lu",
				      gs_elapsed_us(g), free_kb);
		}
		spin_unlock_irq(&gs_lock);
		return GS_DO_RETRY;
	}
	if (task_tgid(victim) != g->victim || !gs_still_killable(oc, victim))
		return GS_DO_RETRY;
	spin_lock_irq(&gs_lock);
	if (g->fate == GS_UNDECIDED) {
		g->fate = GS_KILLED;
		answer = GS_DO_KILL;
	}
	spin_unlock_irq(&gs_lock);
	return answer;
}

static enum gs_answer gs_answer(const struct oom_control *oc,
				struct task_struct *victim)
{
	enum gs_answer answer = GS_DO_RETRY;
	struct gs_grace *g;
	bool late;

	if (!READ_ONCE(gs_sysctl_enabled) || oc->order == -1 ||
	    *gs_ops->oom_killer_disabled)
		return GS_DO_KILL;
	if (gs_session_has(task_tgid(current)))
		return gs_answer_session(oc);
	/* Inside a transaction the handler's own writes would wait for us. */
	if (current->journal_info)
		return GS_DO_KILL;

	g = gs_grace_join(oc, victim, &late);
	if (!g && late) {
		gs_pause();
		return GS_DO_RETRY;
	}
	if (!g)
		g = gs_grace_begin(oc, victim);
	if (!g)
		return GS_DO_KILL;
	if (gs_wait(g, oc))
		answer = gs_decide(g, oc, victim);
	spin_lock_irq(&gs_lock);
	g->waiters--;
	gs_grace_try_free(g);
	spin_unlock_irq(&gs_lock);
	return answer;
}

void __graceful_shutdown_choice(struct oom_control *oc)
{
	struct task_struct *victim = oc->chosen;
	enum gs_answer answer;

	lockdep_assert_held(gs_ops->oom_lock);
	if (!victim || victim == (void *)-1UL)
		return;
	answer = gs_answer(oc, victim);
	if (answer == GS_DO_KILL)
		return;
	put_task_struct(victim);
	oc->chosen = answer == GS_DO_FAIL ? NULL : (void *)-1UL;
}

/* ---- probes ------------------------------------------------------------ */

/* Called for every fork while anything is registered. */
void graceful_shutdown_forked(struct task_struct *parent,
			      struct task_struct *child)
{
	if (thread_group_leader(child))
		gs_session_forked(task_tgid(parent), child);
}

/* A multi-threaded handler has one status for all threads, or its leader's. */
static int gs_exit_status(struct task_struct *task)
{
	return task->signal->group_exit_code ?: task->group_leader->exit_code;
}

/* Called for every exit while anything is registered. */
void graceful_shutdown_exiting(struct task_struct *task)
{
	struct pid *pid = task_tgid(task);
	struct gs_grace *session;
	unsigned long flags;

	if (atomic_read(&task->signal->live))
		return;
	spin_lock_irqsave(&gs_lock, flags);
	gs_registry_exited(pid);
	session = gs_session_exited(pid);
	if (session && session->handler == pid)
		gs_grace_end(session, GS_DONE, gs_exit_status(task));
	if (session)
		gs_grace_try_free(session);
	if (gs_nr_graces)
		gs_graces_gone(pid);
	if (!gs_registry_count())
		gs_upkeep_in(GS_IDLE_DELAY);
	spin_unlock_irqrestore(&gs_lock, flags);
}

/* ---- ready or not ------------------------------------------------------ */

void gs_upkeep_in(unsigned long delay)
{
	/* Not later than it was going to be. */
	if (!delayed_work_pending(&gs_upkeep_work) ||
	    time_before(jiffies + delay, gs_upkeep_work.timer.expires))
		mod_delayed_work(system_unbound_wq, &gs_upkeep_work, delay);
}

static int gs_switch_on(void)
{
	int err;

	lockdep_assert_held(&gs_state_mutex);
	err = gs_session_init();
	if (!err)
		err = gs_ops->probes_register();
	if (err)
		return err;
	static_branch_enable(&graceful_shutdown_active);
	gs_active = true;
	return 0;
}

static void gs_switch_off(void)
{
	lockdep_assert_held(&gs_state_mutex);
	static_branch_disable(&graceful_shutdown_active);
	gs_ops->probes_unregister();
	gs_launchers_drop();
	gs_reserve_drop();
	gs_active = false;
}

/* Whether all is there that should be. */
static bool gs_make_ready(void)
{
	bool global;

	lockdep_assert_held(&gs_state_mutex);
	spin_lock_irq(&gs_lock);
	global = gs_global_grace_runs();
	spin_unlock_irq(&gs_lock);
	/* A fork would meet the OOM, too, and hold the worker up. */
	if (global)
		return false;
	return gs_launchers_fill() & gs_reserve_gather();
}

static bool gs_is_idle(void)
{
	bool idle;

	lockdep_assert_held(&gs_state_mutex);
	spin_lock_irq(&gs_lock);
	idle = !gs_pins && !gs_registry_count() && !gs_nr_graces;
	spin_unlock_irq(&gs_lock);
	return idle;
}

/* Keep launchers and reserve as they should be. */
static void gs_upkeep(struct work_struct *work)
{
	bool ready = true, idle;

	mutex_lock(&gs_state_mutex);
	idle = gs_is_idle();
	if (gs_active && idle && time_after_eq(jiffies, gs_idle_from))
		gs_switch_off();
	else if (gs_active)
		ready = gs_make_ready();
	if (gs_active && idle)
		gs_upkeep_in(GS_IDLE_DELAY);
	mutex_unlock(&gs_state_mutex);
	/* Each try costs a little reclaim, so they grow rarer. */
	gs_retry_delay = ready ? HZ / 10 : min(2 * gs_retry_delay, 60UL * HZ);
	if (!ready)
		gs_upkeep_in(gs_retry_delay);
}

/**
 * gs_activate - be ready for an OOM
 *
 * To be followed by gs_deactivate() once the entries are in the registry. May
 * sleep.
 *
 * Return: 0, -ENOMEM, or -EINTR.
 */
int gs_activate(void)
{
	bool first;
	int err = 0;

	if (mutex_lock_killable(&gs_state_mutex))
		return -EINTR;
	first = !gs_active;
	if (first)
		err = gs_switch_on();
	if (!err)
		gs_pins++;
	gs_idle_from = jiffies + GS_IDLE_DELAY;
	if (first && !err) {
		gs_launchers_fill();
		gs_launchers_wait();
		gs_reserve_gather();
	}
	mutex_unlock(&gs_state_mutex);
	return err;
}

void gs_deactivate(void)
{
	mutex_lock(&gs_state_mutex);
	gs_pins--;
	mutex_unlock(&gs_state_mutex);
	if (!gs_registry_count())
		gs_upkeep_in(GS_IDLE_DELAY);
}

/* ---- what user space sees of it ---------------------------------------- */

static int gs_features_show(struct seq_file *m, void *v)
{
	enum gs_event event;

	seq_printf(m, "abi=%d\nattachment=%s\nversion=%s\n", GS_ABI,
		   gs_ops->attachment, GS_VERSION);
	seq_puts(m, "keys=grace_ms\n");
	seq_puts(m, "events=grace,done,timeout,failed,averted,gone,kill,lost\n");
	seq_puts(m, "wait=in-place\n");
	seq_printf(m, "static_usermodehelper=%d\n",
		   IS_ENABLED(CONFIG_STATIC_USERMODEHELPER));
	seq_printf(m, "reserve_kb=%lu\n", gs_reserve_held());
	seq_printf(m, "entries=%u\n", gs_registry_count());
	for (event = 0; event < GS_NR_EVENTS; event++)
		seq_printf(m, "count_%s=%llu\n", gs_event_name(event),
			   gs_event_count(event));
	return 0;
}

static int gs_one = 1;
static int gs_hour_ms = 3600 * 1000;
static int gs_max_running = GS_MAX_RUNNING;

/* The pool of launchers follows max_running. */
static int gs_sysctl_running(GS_CTL_CONST struct ctl_table *table, int write,
			     GS_CTL_BUFFER *buffer, size_t *lenp, loff_t *ppos)
{
	int err = proc_dointvec_minmax(table, write, buffer, lenp, ppos);

	if (write && !err)
		gs_upkeep_in(0);
	return err;
}

#define GS_SYSCTL(_name, _data, _min, _max, _handler) {		\
	.procname	= "graceful_shutdown_" _name,		\
	.data		= _data,				\
	.maxlen		= sizeof(int),				\
	.mode		= 0644,					\
	.proc_handler	= _handler,				\
	.extra1		= _min,					\
	.extra2		= _max,					\
}

static struct ctl_table gs_sysctls[] = {
	GS_SYSCTL("enabled", &gs_sysctl_enabled, SYSCTL_ZERO, SYSCTL_ONE,
		  proc_dointvec_minmax),
	GS_SYSCTL("grace_ms", &gs_sysctl_grace_ms, &gs_one,
		  &gs_sysctl_max_grace_ms, proc_dointvec_minmax),
	GS_SYSCTL("max_grace_ms", &gs_sysctl_max_grace_ms, &gs_one,
		  &gs_hour_ms, proc_dointvec_minmax),
	GS_SYSCTL("max_entries", &gs_sysctl_max_entries, SYSCTL_ZERO,
		  SYSCTL_INT_MAX, proc_dointvec_minmax),
	GS_SYSCTL("max_running", &gs_sysctl_max_running, &gs_one,
		  &gs_max_running, gs_sysctl_running),
	GS_CTL_TABLE_END
};

/**
 * graceful_shutdown_attach - join the core to a kernel
 * @ops: what the core cannot reach by itself; must stay valid
 *
 * Return: 0 or -ENOMEM.
 */
int graceful_shutdown_attach(const struct graceful_shutdown_ops *ops)
{
	struct gs_grace *g;
	int err;

	for (g = gs_graces; g < gs_graces + GS_MAX_RUNNING; g++) {
		INIT_LIST_HEAD(&g->tasks);
		init_waitqueue_head(&g->wait);
		hrtimer_init(&g->deadline, CLOCK_BOOTTIME,
			     HRTIMER_MODE_ABS_SOFT);
		g->deadline.function = gs_grace_deadline;
	}
	err = gs_events_init();
	if (err)
		return err;
	gs_ops = ops;
	err = gs_registry_init();
	if (!err && (!register_sysctl("vm", gs_sysctls) ||
		     !proc_create_single("graceful_shutdown_features", 0444,
					 NULL, gs_features_show)))
		err = -ENOMEM;
	return err;
}
