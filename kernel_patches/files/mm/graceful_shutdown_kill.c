// SPDX-License-Identifier: GPL-2.0
/*
 * The kill record: one for every process that the OOM killer kills, registered
 * or not, with the figures that it takes a kprobe to learn otherwise.
 */

#include <linux/cgroup.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/page_counter.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>

#include <linux/graceful_shutdown.h>
#include "graceful_shutdown.h"
#include "graceful_shutdown_compat.h"
#include "graceful_shutdown_grammar.h"

/*
 * The kill in hand, and the text of its figures. Guarded by oom_lock, from the
 * choice to the last kill that follows from it.
 */
static struct {
	const struct oom_control *oc;
	pid_t chosen;
	bool chosen_killed;
	bool group;
	size_t used;
	char text[2048];
} gs_kill;

/**
 * graceful_shutdown_killing - the OOM killer begins to kill
 * @oc: the OOM
 * @group: the whole cgroup, for memory.oom.group
 *
 * Called with oom_lock held. @oc is used until the lock is dropped.
 */
void graceful_shutdown_killing(struct oom_control *oc, bool group)
{
	gs_kill.oc = oc;
	gs_kill.chosen = task_tgid_nr(oc->chosen);
	gs_kill.chosen_killed = false;
	gs_kill.group = group;
}

static __printf(1, 2) void gs_figure(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	gs_kill.used += vscnprintf(gs_kill.text + gs_kill.used,
				   sizeof(gs_kill.text) - gs_kill.used, fmt,
				   args);
	va_end(args);
}

/* What there is not, or no limit, is a dash. */
static void gs_figure_kb(const char *key, bool known, unsigned long pages)
{
	if (known && pages < PAGE_COUNTER_MAX)
		gs_figure(" %s=%lu", key, gs_kb(pages));
	else
		gs_figure(" %s=-", key);
}

/* Version 2 has one for the machine, and so has version 1 at its root. */
static void gs_figure_swappiness(const struct mem_cgroup *memcg, bool v2)
{
	const int *swappiness = gs_ops->swappiness;

	if (!v2 && memcg->css.parent)
		swappiness = &memcg->swappiness;
	if (swappiness)
		gs_figure(" swappiness=%d", READ_ONCE(*swappiness));
	else
		gs_figure(" swappiness=-");
}

static void gs_figures_memcg(struct mem_cgroup *memcg)
{
	bool v2 = cgroup_subsys_on_dfl(memory_cgrp_subsys);

	gs_figure_kb("mem_kb", true, page_counter_read(&memcg->memory));
	gs_figure_kb("mem_max_kb", true, READ_ONCE(memcg->memory.max));
	gs_figure_kb("mem_low_kb", true, READ_ONCE(memcg->memory.low));
	gs_figure_kb("mem_swap_kb", v2, page_counter_read(&memcg->swap));
	gs_figure_kb("mem_swap_max_kb", v2, READ_ONCE(memcg->swap.max));
	gs_figure_kb("memsw_kb", !v2, page_counter_read(&memcg->memsw));
	gs_figure_kb("memsw_max_kb", !v2, READ_ONCE(memcg->memsw.max));
	gs_figure_swappiness(memcg, v2);
}

static void gs_figures_mm(struct mm_struct *mm)
{
	gs_figure(" anon_kb=%lu file_kb=%lu shmem_kb=%lu swapents_kb=%lu pgtables_kb=%lu",
		  gs_kb(get_mm_counter(mm, MM_ANONPAGES)),
		  gs_kb(get_mm_counter(mm, MM_FILEPAGES)),
		  gs_kb(get_mm_counter(mm, MM_SHMEMPAGES)),
		  gs_kb(get_mm_counter(mm, MM_SWAPENTS)),
		  mm_pgtables_bytes(mm) >> 10);
	gs_figure(" total_vm_kb=%lu hiwater_rss_kb=%lu hiwater_vm_kb=%lu",
		  gs_kb(mm->total_vm), gs_kb(get_mm_hiwater_rss(mm)),
		  gs_kb(get_mm_hiwater_vm(mm)));
	gs_figure(" locked_kb=%lu pinned_kb=%lu", gs_kb(mm->locked_vm),
		  gs_kb(atomic64_read(&mm->pinned_vm)));
	gs_figure(" data_kb=%lu exec_kb=%lu stack_kb=%lu task_size_kb=%lu",
		  gs_kb(mm->data_vm), gs_kb(mm->exec_vm), gs_kb(mm->stack_vm),
		  mm->task_size >> 10);
}

/* Sums over the threads that live, and what the dead ones left. */
static void gs_figures_task(struct task_struct *task)
{
	struct signal_struct *sig = task->signal;
	unsigned long minflt = sig->min_flt, majflt = sig->maj_flt;
	u64 utime = sig->utime, stime = sig->stime, gtime = sig->gtime;
	struct task_struct *t;

	rcu_read_lock();
	for_each_thread(task, t) {
		minflt += t->min_flt;
		majflt += t->maj_flt;
		utime += t->utime;
		stime += t->stime;
		gtime += t->gtime;
	}
	rcu_read_unlock();
	gs_figure(" threads=%d flags=0x%x prio=%d static_prio=%d",
		  get_nr_threads(task), task->flags, task->prio,
		  task->static_prio);
	gs_figure(" minflt=%lu majflt=%lu utime_ns=%llu stime_ns=%llu",
		  minflt, majflt, utime, stime);
	gs_figure(" gtime_ns=%llu start_time_ns=%llu start_boottime_ns=%llu",
		  gtime, task->start_time, gs_start_boottime(task));
}

static void gs_figures_asker(const struct oom_control *oc)
{
	char comm[4 * TASK_COMM_LEN];

	gs_escape(comm, sizeof(comm), current->comm);
	gs_figure(" by_pid=%d by_comm=%s gfp=0x%x order=%d",
		  task_tgid_nr(current), comm,
		  (__force unsigned int)oc->gfp_mask, oc->order);
}

/* How the grace of @victim ended, and its entry, with a reference, or NULL. */
static const char *gs_kill_outcome(struct task_struct *victim,
				   struct gs_entry **entry)
{
	const char *outcome;
	struct gs_grace *g;

	spin_lock_irq(&gs_lock);
	g = gs_grace_killed(task_tgid(victim));
	*entry = g ? g->entry : gs_entry_covering(victim);
	if (*entry)
		gs_entry_get(*entry);
	outcome = g ? g->outcome : gs_spent_outcome(task_tgid(victim));
	spin_unlock_irq(&gs_lock);
	return outcome ?: "none";
}

/**
 * graceful_shutdown_killed - the OOM killer has sent SIGKILL
 * @victim: to whom; its task_lock is held
 * @mm: its memory
 */
void graceful_shutdown_killed(struct task_struct *victim, struct mm_struct *mm)
{
	const struct oom_control *oc = gs_kill.oc;
	struct gs_entry *e = NULL;
	const char *outcome;
	struct gs_victim who;

	if (!gs_ops || !oc)
		return;
	lockdep_assert_held(gs_ops->oom_lock);

	gs_victim_init(&who, victim, oc);
	/* It is killed once more with the others of its group. */
	if (who.pid == gs_kill.chosen && gs_kill.chosen_killed)
		return;
	gs_kill.chosen_killed |= who.pid == gs_kill.chosen;
	outcome = gs_kill_outcome(victim, &e);
	gs_kill.used = 0;
	gs_figure(" outcome=%s group=%d", outcome, gs_kill.group);
	/* Of a group the chosen one alone was weighed. */
	if (who.pid == gs_kill.chosen && oc->chosen_points)
		gs_figure(" points=%ld", (long)oc->chosen_points);
	else
		gs_figure(" points=-");
	gs_figure(" total_pages=%lu oom_score_adj=%d", oc->totalpages,
		  victim->signal->oom_score_adj);
	rcu_read_lock();
	gs_figures_memcg(mem_cgroup_from_task(victim));
	rcu_read_unlock();
	gs_figures_mm(mm);
	gs_figures_task(victim);
	gs_figures_asker(oc);
	gs_event_emit(GS_KILL, &who, e ? gs_entry_handler(e) : "-", "%s", gs_kill.text);
	gs_entry_put(e);
}
