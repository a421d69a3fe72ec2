// SPDX-License-Identifier: GPL-2.0
/*
 * A grace: a victim, what is done for it before the kill, and how that ends.
 *
 * One kill is the end of one victim, or with memory.oom.group of several. Each
 * victim has a grace of its own; they run side by side, and the first one, the
 * head, stands for the kill: askers wait there, and its fate is that of all.
 */

#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/timekeeping.h>

#include "graceful_shutdown.h"
#include "graceful_shutdown_compat.h"

/* After its grace a victim gets none for this many times its grace time. */
#define GS_SPENT_GRACES		10

/*
 * Nobody was there to decide. An asker that waited at the end of its fault comes
 * back within this time, and then it is to kill, not to begin anew.
 */
#define GS_RETURN_NS		(10ULL * NSEC_PER_SEC)

/* Of a budget that is nearly used up: less than this is no grace at all. */
#define GS_WORTHWHILE_MS	100U

/*
 * Who waited for a grace decides, unless it does not come to it for so long: it
 * may sit in a cgroup that has used up its share of the processors.
 */
#define GS_LATE_NS		NSEC_PER_SEC

/* Guarded by gs_lock. */
static struct gs_grace gs_graces[GS_MAX_RUNNING];
static unsigned int gs_nr_graces;
static unsigned int gs_nr_handlers;

/*
 * The first slot in use, or the next one behind @g; of the kill that @head stands
 * for, where that is given. NULL at the end.
 */
static struct gs_grace *gs_grace_next(struct gs_grace *g,
				      const struct gs_grace *head)
{
	lockdep_assert_held(&gs_lock);
	for (g = g ? g + 1 : gs_graces; g < gs_graces + GS_MAX_RUNNING; g++)
		if (g->busy && (!head || g->head == head))
			return g;
	return NULL;
}

unsigned int gs_grace_index(const struct gs_grace *g)
{
	return g - gs_graces;
}

struct gs_grace *gs_grace_at(unsigned int index)
{
	return &gs_graces[index];
}

bool gs_graces_run(void)
{
	return READ_ONCE(gs_nr_graces);
}

bool gs_global_grace_runs(void)
{
	struct gs_grace *g;

	for (g = gs_grace_next(NULL, NULL); g; g = gs_grace_next(g, NULL))
		if (!g->over && !g->who.memcg)
			return true;
	return false;
}

/*
 * Without the lock: is there one that the reserve is for, of @victim or, where that
 * is NULL, of anybody?
 */
bool gs_machine_grace_runs(const struct pid *victim)
{
	const struct gs_grace *g = gs_graces;

	if (!gs_graces_run())
		return false;
	for (; g < gs_graces + GS_MAX_RUNNING; g++)
		if (READ_ONCE(g->busy) && !READ_ONCE(g->over) &&
		    READ_ONCE(g->who.constraint) == CONSTRAINT_NONE &&
		    (!victim || READ_ONCE(g->victim) == victim))
			return true;
	return false;
}

static unsigned int gs_elapsed_us(const struct gs_grace *g)
{
	return div_u64(ktime_get_boottime_ns() - g->begin_ns, NSEC_PER_USEC);
}

/* Nothing was killed: there may be another grace, but not at once. */
static u64 gs_rearm_ns(unsigned int grace_ms)
{
	return ktime_get_boottime_ns() +
	       (u64)grace_ms * GS_SPENT_GRACES * NSEC_PER_MSEC;
}

/* ---- how it ends ------------------------------------------------------- */

/* The askers may go on. */
bool gs_grace_settled(const struct gs_grace *head)
{
	return READ_ONCE(head->ended) || READ_ONCE(head->fate) != GS_UNDECIDED;
}

/*
 * A kill is one wait of its domain, also where nobody but kswapd asks: askers
 * that wait for it at the same time count no second time.
 */
static void gs_grace_settle(struct gs_grace *head)
{
	lockdep_assert_held(&gs_lock);
	if (head->budget)
		gs_budget_leave(head->budget);
	head->budget = NULL;
	wake_up_all(&head->wait);
}

static void gs_grace_decide(struct gs_grace *head, enum gs_fate fate)
{
	WRITE_ONCE(head->fate, fate);
	gs_grace_settle(head);
}

/* A grace of this kill is over, or its victim is gone. Is there any other? */
static void gs_grace_update(struct gs_grace *head)
{
	bool alive = false, pending = false;
	struct gs_grace *g;

	for (g = gs_grace_next(NULL, head); g; g = gs_grace_next(g, head)) {
		alive |= !g->gone;
		pending |= !g->gone && !g->over;
	}
	if (!alive && head->fate == GS_UNDECIDED)
		gs_grace_decide(head, GS_SPARED);
	if (pending || head->ended)
		return;
	head->ended_ns = ktime_get_boottime_ns();
	WRITE_ONCE(head->ended, true);
	gs_grace_settle(head);
}

static void gs_grace_over(struct gs_grace *g, const char *outcome)
{
	g->outcome = g->handler ? outcome : "signal";
	g->over = true;
	if (!g->gone)
		gs_spent_set(g->victim, g->outcome, U64_MAX);
	gs_session_kill(g);
	hrtimer_try_to_cancel(&g->deadline);
	gs_grace_update(g->head);
}

/**
 * gs_grace_end - the handler has ended, or its time is up
 * @g: the grace
 * @event: GS_DONE, GS_TIMEOUT or GS_FAILED
 * @value: exit status in the form of wait(2), or the error number
 *
 * From here on nothing of the session lives.
 */
void gs_grace_end(struct gs_grace *g, enum gs_event event, int value)
{
	lockdep_assert_held(&gs_lock);
	if (g->over)
		return;
	if (event == GS_DONE)
		gs_event_emit(event, &g->who, NULL,
			      " exit_status=%d elapsed_us=%u", value,
			      gs_elapsed_us(g));
	else if (event == GS_TIMEOUT)
		gs_event_emit(event, &g->who, NULL, " elapsed_us=%u",
			      gs_elapsed_us(g));
	else
		gs_event_emit(event, &g->who, NULL, " errno=%d", value);
	gs_grace_over(g, gs_event_name(event));
}

static enum hrtimer_restart gs_grace_deadline(struct hrtimer *timer)
{
	struct gs_grace *g = container_of(timer, struct gs_grace, deadline);
	unsigned long flags;

	spin_lock_irqsave(&gs_lock, flags);
	/* The slot may have passed to another grace while we came here. */
	if (g->busy && ktime_get_boottime_ns() >= g->deadline_ns) {
		gs_grace_end(g, GS_TIMEOUT, 0);
		/* Without a session there is no exit to come back for. */
		gs_grace_try_free(g);
	}
	spin_unlock_irqrestore(&gs_lock, flags);
	return HRTIMER_NORESTART;
}

/**
 * gs_grace_spare - there is memory again
 * @head: the kill that is not needed
 * @free_kb: how much there is
 */
void gs_grace_spare(struct gs_grace *head, unsigned long free_kb)
{
	struct gs_grace *g;

	if (head->fate != GS_UNDECIDED)
		return;
	for (g = gs_grace_next(NULL, head); g; g = gs_grace_next(g, head)) {
		if (g->gone)
			continue;
		gs_spent_spare(g->victim, g->outcome, gs_rearm_ns(g->grace_ms));
		gs_event_emit(GS_AVERTED, &g->who, NULL,
			      " elapsed_us=%u free_kb=%lu", gs_elapsed_us(g),
			      free_kb);
	}
	gs_grace_decide(head, GS_SPARED);
}

/*
 * Nobody came back to decide: who asked has left its fault and not met the OOM
 * again, or could not wait. So it is said here, if it can be said.
 */
static void gs_grace_decide_late(struct gs_grace *head)
{
	const struct oom_control oc = {
		.memcg = head->who.memcg,
		.constraint = head->who.constraint,
		.gfp_mask = GFP_HIGHUSER_MOVABLE,
	};
	unsigned long free_kb;

	if (head->fate == GS_UNDECIDED && !gs_is_bounded(oc.constraint) &&
	    gs_enough(&oc, &free_kb))
		gs_grace_spare(head, free_kb);
}

static void gs_grace_free(struct gs_grace *g)
{
	if (g->head->fate == GS_UNDECIDED && !g->gone)
		gs_spent_set(g->victim, g->outcome,
			     max(gs_rearm_ns(g->grace_ms),
				 ktime_get_boottime_ns() + GS_RETURN_NS));
	gs_entry_put(g->entry);
	put_pid(g->victim);
	if (g->handler)
		gs_nr_handlers--;
	put_pid(g->handler);
	if (g->who.memcg)
		css_put(&g->who.memcg->css);
	g->handler = NULL;
	g->busy = false;
	gs_nr_graces--;
	module_put(THIS_MODULE);
}

/* Free the slots of the kill that @g belongs to, if nothing uses them. */
void gs_grace_try_free(struct gs_grace *g)
{
	struct gs_grace *head = g->head;

	lockdep_assert_held(&gs_lock);
	if (!g->busy || head->waiters)
		return;
	for (g = gs_grace_next(NULL, head); g; g = gs_grace_next(g, head))
		if (!g->over || !list_empty(&g->tasks))
			return;
	gs_grace_decide_late(head);
	for (g = gs_grace_next(NULL, head); g; g = gs_grace_next(g, head))
		gs_grace_free(g);
	gs_upkeep_in(0);
}

/* A victim has exited. Its handler may go on to the deadline. */
static void gs_grace_gone(struct gs_grace *g)
{
	g->gone = true;
	if (g->head->fate == GS_UNDECIDED)
		gs_event_emit(GS_GONE, &g->who, NULL, " elapsed_us=%u",
			      gs_elapsed_us(g));
	if (g->handler || g->over)
		gs_grace_update(g->head);
	else
		gs_grace_over(g, NULL);
	gs_grace_try_free(g);
}

void gs_graces_gone(struct pid *victim)
{
	struct gs_grace *g;

	lockdep_assert_held(&gs_lock);
	if (!gs_nr_graces)
		return;
	for (g = gs_grace_next(NULL, NULL); g; g = gs_grace_next(g, NULL))
		if (g->victim == victim && !g->gone)
			gs_grace_gone(g);
}

/* Does a kill that @victim is a part of still wait for handlers? */
bool gs_grace_pends(const struct pid *victim)
{
	struct gs_grace *g;

	for (g = gs_grace_next(NULL, NULL); g; g = gs_grace_next(g, NULL))
		if (g->victim == victim && g->head->fate == GS_UNDECIDED &&
		    !g->head->ended)
			return true;
	return false;
}

/* Whether the caller is the one to kill. */
bool gs_grace_kill(struct gs_grace *head)
{
	lockdep_assert_held(&gs_lock);
	if (head->fate != GS_UNDECIDED)
		return false;
	gs_grace_decide(head, GS_KILLED);
	return true;
}

/*
 * @victim is being killed, by this OOM or by another that gives no grace. Settles
 * what runs for it; the grace that it had last, or NULL.
 */
struct gs_grace *gs_grace_killed(struct pid *victim)
{
	struct gs_grace *g, *last = NULL;

	for (g = gs_grace_next(NULL, NULL); g; g = gs_grace_next(g, NULL)) {
		if (g->victim != victim)
			continue;
		gs_grace_kill(g->head);
		if (!last || g->begin_ns > last->begin_ns)
			last = g;
	}
	return last;
}

/* ---- joining one ------------------------------------------------------- */

/* Is this a kill in another domain, which this one's budget did not bound? */
bool gs_grace_foreign(const struct gs_grace *head,
		      const struct oom_control *oc)
{
	return head->who.memcg != oc->memcg;
}

static bool gs_grace_is_of(const struct gs_grace *head, struct pid *victim)
{
	struct gs_grace *g;

	for (g = gs_grace_next(NULL, head); g; g = gs_grace_next(g, head))
		if (g->victim == victim)
			return true;
	return false;
}

/*
 * A kill to wait for: of this domain or of one below it, whoever its victim is;
 * a global ask waits for a global one. Or one of this very victim.
 */
static bool gs_grace_concerns(const struct gs_grace *head,
			      const struct oom_control *oc,
			      struct pid *victim)
{
	if (head->fate != GS_UNDECIDED)
		return false;
	/* Over, and its askers have left or do not come back: the next one kills. */
	if (head->ended && (!head->waiters ||
			    ktime_get_boottime_ns() - head->ended_ns > GS_LATE_NS))
		return false;
	if (gs_grace_is_of(head, victim))
		return true;
	if (!head->who.memcg || !oc->memcg)
		return !head->who.memcg && !oc->memcg;
	return mem_cgroup_is_descendant(head->who.memcg, oc->memcg);
}

/**
 * gs_grace_join - wait for a kill that is already coming
 * @oc: the OOM in hand
 * @victim: whom it would kill
 * @late: set where there is one whose handlers have ended. That is left to those
 *	who waited for it: if others could still join, they might keep each other
 *	from deciding
 *
 * Return: its head, to be left with gs_grace_leave(), or NULL.
 */
struct gs_grace *gs_grace_join(const struct oom_control *oc,
			       struct task_struct *victim, bool *late)
{
	struct gs_grace *g, *joined = NULL;
	bool broke;

	*late = false;
	spin_lock_irq(&gs_lock);
	broke = gs_budget_left(oc->memcg) <
		min_t(unsigned int, GS_WORTHWHILE_MS, gs_sysctl_max_grace_ms);
	for (g = gs_grace_next(NULL, NULL); g; g = gs_grace_next(g, NULL)) {
		if (g->head != g || !gs_grace_concerns(g, oc, task_tgid(victim)))
			continue;
		if (broke && gs_grace_foreign(g, oc))
			continue;
		if (g->ended) {
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

/**
 * gs_grace_join_own - wait for the kill that current is to be the victim of
 *
 * Only where a handler runs for it, in a global OOM. A victim that is sent a signal
 * may have to do something before the kill, and does not wait as long as it gets on.
 *
 * Return: its head, to be left with gs_grace_leave(), or NULL.
 */
struct gs_grace *gs_grace_join_own(void)
{
	struct gs_grace *g;

	lockdep_assert_held(&gs_lock);
	for (g = gs_grace_next(NULL, NULL); g; g = gs_grace_next(g, NULL)) {
		if (g->victim != task_tgid(current) || g->over || !g->handler ||
		    g->entry->signal || g->who.constraint != CONSTRAINT_NONE ||
		    g->head->fate != GS_UNDECIDED)
			continue;
		g->head->waiters++;
		return g->head;
	}
	return NULL;
}

/* Has nobody in current's process taken its signal yet? */
static bool gs_signal_pends(int number)
{
	/* One that is being taken may still count: then current waits as others do. */
	return data_race(sigismember(&current->signal->shared_pending.signal,
				     number));
}

/**
 * gs_victim_saves_itself - is what is set aside for current, a victim?
 *
 * Return: whether it acts on the signal of its grace, and no handler runs which
 * would have to go without. A signal that it ignores counts as acted on.
 */
bool gs_victim_saves_itself(void)
{
	struct gs_grace *g;
	bool saves = false;

	for (g = gs_grace_next(NULL, NULL); g; g = gs_grace_next(g, NULL)) {
		if (g->over || g->who.constraint != CONSTRAINT_NONE)
			continue;
		if (g->handler)
			return false;
		if (g->victim == task_tgid(current))
			saves = !gs_signal_pends(g->entry->signal);
	}
	return saves;
}

void gs_grace_leave(struct gs_grace *head)
{
	unsigned long flags;

	spin_lock_irqsave(&gs_lock, flags);
	head->waiters--;
	gs_grace_try_free(head);
	spin_unlock_irqrestore(&gs_lock, flags);
}

/* ---- how it begins ----------------------------------------------------- */

/**
 * struct gs_begin - a kill whose graces begin
 * @oc: the OOM in hand
 * @head: its first grace, NULL before that
 */
struct gs_begin {
	const struct oom_control *oc;
	struct gs_grace *head;
};

/* A free slot, with a launcher where there is a handler to start. */
static struct gs_grace *gs_grace_take(const struct gs_entry *e)
{
	struct gs_grace *g = gs_graces;

	lockdep_assert_held(&gs_lock);
	while (g < gs_graces + GS_MAX_RUNNING && g->busy)
		g++;
	/* A module that is about to go begins nothing more. */
	if (g == gs_graces + GS_MAX_RUNNING || !try_module_get(THIS_MODULE))
		return NULL;
	g->launcher = NULL;
	if (!e->argc)
		return g;
	if (gs_nr_handlers < READ_ONCE(gs_sysctl_max_running))
		g->launcher = gs_launcher_take(g);
	if (g->launcher)
		return g;
	module_put(THIS_MODULE);
	return NULL;
}

static void gs_grace_fill(struct gs_grace *g, struct gs_entry *e,
			  struct task_struct *victim, unsigned int grace_ms,
			  struct gs_begin *begin)
{
	const struct oom_control *oc = begin->oc;

	gs_victim_init(&g->who, victim, oc);
	if (oc->memcg)
		css_get(&oc->memcg->css);
	gs_entry_get(e);
	g->entry = e;
	g->victim = get_pid(task_tgid(victim));
	g->grace_ms = grace_ms;
	g->begin_ns = ktime_get_boottime_ns();
	g->deadline_ns = g->begin_ns + (u64)grace_ms * NSEC_PER_MSEC;
	/* Of a group the chosen one alone was weighed. */
	if (g->victim == task_tgid(oc->chosen))
		g->points = oc->chosen_points;
	else
		g->points = 0;
	g->outcome = NULL;
	g->over = false;
	g->gone = false;
	g->head = begin->head ?: g;
	if (g->head == g) {
		g->fate = GS_UNDECIDED;
		g->waiters = 1;
	}
	g->head->ended = false;
	if (!g->head->budget)
		g->head->budget = gs_budget_enter(oc->memcg);
	g->busy = true;
	gs_nr_graces++;
	if (g->handler)
		gs_nr_handlers++;
}

/* The entry by which this victim is to have a grace now. */
static struct gs_entry *gs_grace_due(struct task_struct *victim,
				     const struct gs_mm_facts *facts)
{
	struct gs_entry *e = gs_entry_covering(victim);
	struct gs_grace *g;

	if (!e || gs_spent_outcome(task_tgid(victim)))
		return NULL;
	/* Who registers a handler gets no handler's handler. */
	if (gs_is_dying(victim) || gs_session_of(task_tgid(victim)))
		return NULL;
	/* It may have become something that is not the registrant's. */
	if (!e->privileged && !gs_is_owner(e->cred, victim, facts))
		return NULL;
	/* It has its grace, which this domain may not wait for any longer. */
	for (g = gs_grace_next(NULL, NULL); g; g = gs_grace_next(g, NULL))
		if (g->victim == task_tgid(victim) && !g->over)
			return NULL;
	return e;
}

/* Whether @victim is to have a grace before it is killed for @domain. */
bool gs_grace_awaits(struct task_struct *victim, struct mem_cgroup *domain)
{
	struct gs_mm_facts facts;
	bool awaits;

	if (!gs_mm_look(victim, domain, &facts))
		return false;
	spin_lock_irq(&gs_lock);
	awaits = gs_grace_due(victim, &facts);
	spin_unlock_irq(&gs_lock);
	return awaits;
}

static struct gs_grace *gs_grace_start(struct gs_begin *begin,
				       struct task_struct *victim,
				       const struct gs_mm_facts *facts)
{
	struct gs_entry *e = gs_grace_due(victim, facts);
	unsigned int grace_ms, left;
	struct gs_grace *g = NULL;
	struct gs_victim who;
	int err = EBUSY;

	lockdep_assert_held(&gs_lock);
	if (!e)
		return NULL;
	grace_ms = e->grace_ms ?: READ_ONCE(gs_sysctl_grace_ms);
	left = gs_budget_left(begin->oc->memcg);
	grace_ms = min_t(unsigned int, grace_ms, gs_sysctl_max_grace_ms);
	if (left >= min(grace_ms, GS_WORTHWHILE_MS)) {
		err = EAGAIN;
		g = gs_grace_take(e);
	}
	if (g) {
		gs_grace_fill(g, e, victim, min(grace_ms, left), begin);
		return g;
	}
	gs_victim_init(&who, victim, begin->oc);
	gs_event_emit(GS_FAILED, &who, NULL, " errno=%d", err);
	/* It is killed now, or with others of its group when their graces are over. */
	gs_spent_spare(task_tgid(victim), gs_event_name(GS_FAILED),
		       gs_rearm_ns(gs_sysctl_max_grace_ms));
	return NULL;
}

/* What there is not is a dash. */
static const char *gs_number_or_dash(char *buf, size_t size, long number)
{
	if (number)
		scnprintf(buf, size, "%ld", number);
	return number ? buf : "-";
}

static u64 gs_grace_emit(const struct gs_grace *g, const struct oom_control *oc,
			 struct task_struct *victim,
			 const struct gs_mm_facts *facts)
{
	char handler_pid[16], signal[16], points[24];

	return gs_event_emit(GS_GRACE, &g->who, gs_entry_handler(g->entry),
			     " handler_pid=%s signal=%s grace_ms=%u rss_kb=%lu swap_kb=%lu total_pages=%lu points=%s oom_score_adj=%d",
			     gs_number_or_dash(handler_pid, sizeof(handler_pid),
					       pid_nr(g->handler)),
			     gs_number_or_dash(signal, sizeof(signal),
					       g->entry->signal),
			     g->grace_ms, facts->rss_kb, facts->swap_kb,
			     oc->totalpages,
			     gs_number_or_dash(points, sizeof(points),
					       g->points),
			     victim->signal->oom_score_adj);
}

/* Begin the grace of @victim, if it has one to begin. */
static void gs_grace_begin_of(struct gs_begin *begin,
			      struct task_struct *victim)
{
	struct gs_mm_facts facts;
	struct gs_grace *g;

	if (!gs_mm_look(victim, begin->oc->memcg, &facts))
		return;
	spin_lock_irq(&gs_lock);
	g = gs_grace_start(begin, victim, &facts);
	if (g) {
		/* Before anything else can happen to it. */
		g->seq = gs_grace_emit(g, begin->oc, victim, &facts);
		g->rss_kb = facts.rss_kb;
		if (g->entry->signal)
			kill_pid(g->victim, g->entry->signal, 1);
		begin->head = g->head;
	}
	spin_unlock_irq(&gs_lock);
	if (g)
		hrtimer_start(&g->deadline, ns_to_ktime(g->deadline_ns),
			      HRTIMER_MODE_ABS_SOFT);
}

/* Also a victim that acts on its signal needs memory for that. */
static bool gs_needs_a_slice(const struct gs_grace *g)
{
	return g->who.constraint == CONSTRAINT_NONE &&
	       (g->entry->signal || !gs_ops->page_by_page);
}

/*
 * Start the handlers, when the time of all of them has begun: each of them takes
 * the processor at once.
 */
static void gs_graces_go(const struct gs_grace *head)
{
	struct gs_grace *g;

	spin_lock_irq(&gs_lock);
	for (g = gs_grace_next(NULL, head); g; g = gs_grace_next(g, head)) {
		/* The caller waits for it, so it stays where it is. */
		spin_unlock_irq(&gs_lock);
		if (gs_needs_a_slice(g))
			gs_reserve_hand_over(true);
		if (g->launcher)
			gs_launcher_go(g->launcher, g->seq, g->rss_kb);
		spin_lock_irq(&gs_lock);
	}
	spin_unlock_irq(&gs_lock);
}

/* As the kernel does, it spares those that must never be killed. */
static int gs_grace_begin_member(struct task_struct *task, void *arg)
{
	if (task->signal->oom_score_adj != OOM_SCORE_ADJ_MIN &&
	    !is_global_init(task))
		gs_grace_begin_of(arg, task);
	return 0;
}

/**
 * gs_grace_begin - begin the graces of a kill
 * @oc: the OOM in hand
 * @victim: whom it would kill
 *
 * Return: the head, to be left with gs_grace_leave(); NULL where nobody whom this
 * kill is the end of has a grace to begin.
 */
struct gs_grace *gs_grace_begin(const struct oom_control *oc,
				struct task_struct *victim)
{
	struct gs_begin begin = { .oc = oc };
	struct mem_cgroup *group;

	lockdep_assert_held(gs_ops->oom_lock);
	gs_grace_begin_of(&begin, victim);
	group = gs_ops->oom_group(victim, oc->memcg);
	if (group) {
		gs_ops->scan_tasks(group, gs_grace_begin_member, &begin);
		mem_cgroup_put(group);
	}
	if (begin.head)
		gs_graces_go(begin.head);
	return begin.head;
}

void gs_graces_init(void)
{
	struct gs_grace *g;

	for (g = gs_graces; g < gs_graces + GS_MAX_RUNNING; g++) {
		INIT_LIST_HEAD(&g->tasks);
		init_waitqueue_head(&g->wait);
		hrtimer_init(&g->deadline, CLOCK_BOOTTIME,
			     HRTIMER_MODE_ABS_SOFT);
		g->deadline.function = gs_grace_deadline;
	}
}

/* There is none any more, but a timer may have been on its way. */
void gs_graces_exit(void)
{
	struct gs_grace *g;

	for (g = gs_graces; g < gs_graces + GS_MAX_RUNNING; g++)
		hrtimer_cancel(&g->deadline);
}
