// SPDX-License-Identifier: GPL-2.0
/*
 * A session: a handler and all that descends from it, recorded by a probe on fork.
 * It ends with the handler: none of it outlives that, or the deadline. And it is
 * bounded: who has more than handler_max_kb of memory of its own, all of them
 * together, is at its end, too. Page cache and tmpfs are not counted.
 */

#include <linux/hash.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "graceful_shutdown.h"

#define GS_SESSION_BITS	8

/* How often its memory is looked at. */
#define GS_SESSION_LOOK	max(HZ / 100, 1)

/**
 * struct gs_session_task - one process of a session
 * @hash: in gs_session_hash by @pid, or in gs_session_free
 * @list: in its grace's tasks
 * @pid: the thread group, with a reference
 * @grace: whose session it is
 */
struct gs_session_task {
	struct hlist_node hash;
	struct list_head list;
	struct pid *pid;
	struct gs_grace *grace;
};

/* Guarded by gs_lock. The tasks are made once and kept. */
static struct gs_session_task *gs_session_tasks;
static struct hlist_head gs_session_hash[1 << GS_SESSION_BITS];
static HLIST_HEAD(gs_session_free);
static unsigned int gs_session_count;

/*
 * Of its own, with a thread that needs no memory to be there: what it stops may
 * be what eats the last of it.
 */
static struct workqueue_struct *gs_session_wq;

static void gs_session_watch(struct work_struct *work);
static DECLARE_DELAYED_WORK(gs_session_work, gs_session_watch);

int gs_session_init(void)
{
	struct gs_session_task *tasks;
	int i;

	if (gs_session_tasks)
		return 0;
	if (!gs_session_wq)
		gs_session_wq = alloc_workqueue("graceful_shutdown",
						WQ_MEM_RECLAIM | WQ_UNBOUND |
						WQ_HIGHPRI, 1);
	tasks = kvcalloc(GS_SESSION_TASKS, sizeof(*tasks), GFP_KERNEL);
	if (!gs_session_wq || !tasks) {
		kvfree(tasks);
		return -ENOMEM;
	}
	spin_lock_irq(&gs_lock);
	gs_session_tasks = tasks;
	for (i = 0; i < GS_SESSION_TASKS; i++)
		hlist_add_head(&tasks[i].hash, &gs_session_free);
	spin_unlock_irq(&gs_lock);
	return 0;
}

void gs_session_exit(void)
{
	if (!gs_session_wq)
		return;
	cancel_delayed_work_sync(&gs_session_work);
	destroy_workqueue(gs_session_wq);
	kvfree(gs_session_tasks);
}

static struct gs_session_task *gs_session_find(struct pid *pid)
{
	struct hlist_head *bucket;
	struct gs_session_task *t;

	lockdep_assert_held(&gs_lock);
	bucket = &gs_session_hash[hash_ptr(pid, GS_SESSION_BITS)];
	hlist_for_each_entry(t, bucket, hash)
		if (t->pid == pid)
			return t;
	return NULL;
}

/* The grace whose session @pid belongs to, or NULL. */
struct gs_grace *gs_session_of(struct pid *pid)
{
	struct gs_session_task *t = gs_session_find(pid);

	return t ? t->grace : NULL;
}

/* Without the lock: is there any session at all, and if so, @pid in one? */
bool gs_session_has(struct pid *pid)
{
	unsigned long flags;
	bool has;

	if (!READ_ONCE(gs_session_count))
		return false;
	spin_lock_irqsave(&gs_lock, flags);
	has = gs_session_of(pid);
	spin_unlock_irqrestore(&gs_lock, flags);
	return has;
}

bool gs_session_add(struct gs_grace *g, struct pid *pid)
{
	struct gs_session_task *t;

	lockdep_assert_held(&gs_lock);
	t = hlist_entry_safe(gs_session_free.first, struct gs_session_task,
			     hash);
	if (!t)
		return false;
	hlist_del(&t->hash);
	t->pid = get_pid(pid);
	t->grace = g;
	hlist_add_head(&t->hash,
		       &gs_session_hash[hash_ptr(pid, GS_SESSION_BITS)]);
	list_add_tail(&t->list, &g->tasks);
	if (!gs_session_count++)
		queue_delayed_work(gs_session_wq, &gs_session_work,
				   GS_SESSION_LOOK);
	return true;
}

/* A child of a member is a member; where there is no room, it must not be. */
void gs_session_forked(struct pid *parent, struct task_struct *child)
{
	struct gs_grace *g;
	unsigned long flags;

	if (!READ_ONCE(gs_session_count))
		return;
	spin_lock_irqsave(&gs_lock, flags);
	g = gs_session_of(parent);
	/* The last records are for handlers that are still to come. */
	if (g && (gs_session_count >= GS_SESSION_TASKS - GS_MAX_RUNNING ||
		  !gs_session_add(g, task_tgid(child)) || g->over))
		send_sig(SIGKILL, child, 1);
	spin_unlock_irqrestore(&gs_lock, flags);
}

/* A thread group has exited. Returns the grace whose session it was in. */
struct gs_grace *gs_session_exited(struct pid *pid)
{
	struct gs_session_task *t = gs_session_find(pid);
	struct gs_grace *g;

	if (!t)
		return NULL;
	hlist_del(&t->hash);
	list_del(&t->list);
	put_pid(t->pid);
	g = t->grace;
	t->grace = NULL;
	hlist_add_head(&t->hash, &gs_session_free);
	gs_session_count--;
	return g;
}

void gs_session_kill(struct gs_grace *g)
{
	struct gs_session_task *t;

	lockdep_assert_held(&gs_lock);
	list_for_each_entry(t, &g->tasks, list)
		kill_pid(t->pid, SIGKILL, 1);
}

/* ---- the bound --------------------------------------------------------- */

/**
 * struct gs_session_sum - the memory of a session
 * @begin_ns: which grace the slot had, 0 where it had none
 * @kb: sum over the processes seen
 */
struct gs_session_sum {
	u64 begin_ns;
	unsigned long kb;
};

/*
 * The thread group of task number @i, with a reference, or NULL; and the sum that
 * its memory goes to.
 */
static struct pid *gs_session_at(unsigned int i, struct gs_session_sum *sums,
				 struct gs_session_sum **sum)
{
	const struct gs_grace *g;
	struct pid *pid = NULL;

	spin_lock_irq(&gs_lock);
	g = gs_session_tasks[i].grace;
	if (g) {
		pid = get_pid(gs_session_tasks[i].pid);
		*sum = &sums[gs_grace_index(g)];
		(*sum)->begin_ns = g->begin_ns;
	}
	spin_unlock_irq(&gs_lock);
	return pid;
}

static unsigned long gs_session_task_kb(struct pid *pid)
{
	struct task_struct *task = get_pid_task(pid, PIDTYPE_TGID);
	struct gs_mm_facts facts;
	unsigned long kb = 0;

	if (!task)
		return 0;
	/* It has its parent's until it executes a program. */
	if (!in_vfork(task) && gs_mm_look(task, NULL, &facts))
		kb = facts.anon_kb + facts.swap_kb;
	put_task_struct(task);
	return kb;
}

static void gs_session_bound(unsigned int slot,
			     const struct gs_session_sum *sum)
{
	struct gs_grace *g = gs_grace_at(slot);

	if (sum->kb <= READ_ONCE(gs_sysctl_handler_max_kb))
		return;
	spin_lock_irq(&gs_lock);
	if (g->busy && g->begin_ns == sum->begin_ns)
		gs_grace_end(g, GS_FAILED, ENOMEM);
	spin_unlock_irq(&gs_lock);
}

static void gs_session_watch(struct work_struct *work)
{
	static struct gs_session_sum sums[GS_MAX_RUNNING];
	struct gs_session_sum *sum;
	struct pid *pid;
	unsigned int i;

	memset(sums, 0, sizeof(sums));
	for (i = 0; i < GS_SESSION_TASKS; i++) {
		pid = gs_session_at(i, sums, &sum);
		if (!pid)
			continue;
		sum->kb += gs_session_task_kb(pid);
		put_pid(pid);
	}
	for (i = 0; i < GS_MAX_RUNNING; i++)
		gs_session_bound(i, &sums[i]);
	if (READ_ONCE(gs_session_count))
		queue_delayed_work(gs_session_wq, &gs_session_work,
				   GS_SESSION_LOOK);
}
