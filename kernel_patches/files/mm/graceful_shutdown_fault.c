// SPDX-License-Identifier: GPL-2.0
/*
 * Waiting at the end of the fault, in a patched kernel.
 *
 * A charge or an allocation may hold mmap_lock and the locks of file systems, so
 * a handler that reads /proc/PID/maps, attaches with ptrace or writes to the same
 * journal would queue up behind an asker that waits in place. One that is in a
 * page fault from user mode can do better: its allocation fails, the fault drops
 * its locks on the way out, and it waits at the very end of the fault, where a
 * signal reaches it, too. Then it faults again.
 */

#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/mutex.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <asm/pgalloc.h>

#include <linux/graceful_shutdown.h>
#include "graceful_shutdown.h"

/*
 * current->graceful_shutdown: in a page fault from user mode; or, that fault is
 * to wait for the kill whose head has this index; or it has waited, and decides.
 */
#define GS_FAULT_NONE		0
#define GS_FAULT_LEFT		1
#define GS_FAULT_DECIDES	(GS_FAULT_LEFT + GS_MAX_RUNNING)
#define GS_FAULT_MAY_LEAVE	(GS_FAULT_DECIDES + GS_MAX_RUNNING)

static_assert(GS_FAULT_MAY_LEAVE < 256);

/*
 * A page of user space, which is charged with GFP_KERNEL and allocated to be movable,
 * or one of the tables that lead to it. What else is allocated in a fault, by a file
 * system for one, might turn into another error than VM_FAULT_OOM.
 */
static bool gs_is_for_user(gfp_t gfp_mask, bool charge)
{
	const gfp_t user = __GFP_FS | (charge ? 0 : __GFP_MOVABLE);
	const gfp_t other = __GFP_ACCOUNT | __GFP_NOFAIL;

	/* Since 6.10 a table is allocated as compound. */
	return (gfp_mask & ~__GFP_COMP) == GFP_PGTABLE_USER ||
	       (gfp_mask & (user | other)) == user;
}

/* See leave_fault in struct graceful_shutdown_ops. */
bool gs_fault_leave(const struct gs_grace *head, const struct oom_control *oc)
{
	if (current->graceful_shutdown != GS_FAULT_MAY_LEAVE ||
	    !gs_is_for_user(oc->gfp_mask, oc->memcg) ||
	    gs_grace_foreign(head, oc))
		return false;
	current->graceful_shutdown = GS_FAULT_LEFT + gs_grace_index(head);
	return true;
}

/* Does current's allocation fail so that it can wait elsewhere? */
bool graceful_shutdown_left(void)
{
	unsigned int fault = current->graceful_shutdown;

	return fault >= GS_FAULT_LEFT && fault < GS_FAULT_DECIDES;
}

/*
 * A thread of the victim itself, in a global OOM. All that it could reclaim is what
 * the handler has just read, and it would find that again and again, and take it; so
 * it waits at once, as it would if it had found nothing.
 */
static bool gs_fault_waits_with_victim(void)
{
	struct gs_grace *head;

	if (current->graceful_shutdown != GS_FAULT_MAY_LEAVE ||
	    !gs_machine_grace_runs(task_tgid(current)))
		return false;
	spin_lock_irq(&gs_lock);
	head = gs_grace_join_own();
	spin_unlock_irq(&gs_lock);
	if (head)
		current->graceful_shutdown = GS_FAULT_LEFT +
					     gs_grace_index(head);
	return head;
}

/* See graceful_shutdown_gives_up(). */
bool __graceful_shutdown_gives_up(gfp_t gfp_mask, bool charge)
{
	if (!gs_is_for_user(gfp_mask, charge))
		return false;
	return graceful_shutdown_left() ||
	       (!charge && gs_fault_waits_with_victim());
}

/* What current's fault is to wait for, or NULL; it is asked for once. */
static struct gs_grace *gs_left_for(void)
{
	unsigned int fault = current->graceful_shutdown;
	bool left = graceful_shutdown_left();

	current->graceful_shutdown = GS_FAULT_NONE;
	return left ? gs_grace_at(fault - GS_FAULT_LEFT) : NULL;
}

/* See decides in struct graceful_shutdown_ops. */
struct gs_grace *gs_fault_decides(void)
{
	unsigned int fault = current->graceful_shutdown;

	if (fault < GS_FAULT_DECIDES || fault >= GS_FAULT_MAY_LEAVE)
		return NULL;
	return gs_grace_at(fault - GS_FAULT_DECIDES);
}

/* The fault came to another end, or current exits. */
void gs_fault_forget(void)
{
	struct gs_grace *head = gs_left_for();

	if (head)
		gs_grace_leave(head);
}

/* handle_mm_fault() begins its work for user mode. */
void __graceful_shutdown_fault_begin(void)
{
	gs_fault_forget();
	current->graceful_shutdown = GS_FAULT_MAY_LEAVE;
}

/*
 * The first that is back decides, as it would where it waits in place. Who only
 * faulted again would have to go through all of reclaim before. Where a cpuset or a
 * memory policy bounds it, only an allocation can tell.
 */
static void gs_decide_after_fault(struct gs_grace *head)
{
	struct oom_control oc = {
		.memcg = head->who.memcg,
		.gfp_mask = GFP_HIGHUSER_MOVABLE,
	};
	struct task_struct *victim;

	if (gs_is_bounded(head->who.constraint))
		return;
	if (mutex_lock_killable(&oom_lock))
		return;
	/* Without a victim out_of_memory() might find that there is none at all. */
	victim = gs_grace_victim(head, head->who.memcg);
	if (victim && head->fate == GS_UNDECIDED) {
		current->graceful_shutdown = GS_FAULT_DECIDES +
					     gs_grace_index(head);
		out_of_memory(&oc);
		current->graceful_shutdown = GS_FAULT_NONE;
	}
	mutex_unlock(&oom_lock);
	if (victim)
		put_task_struct(victim);
}

/**
 * graceful_shutdown_fault_oom - wait where a page fault ends
 *
 * Called for a fault from user mode that failed for want of memory, with no lock
 * held. Any signal ends the wait: the task goes to user mode and may act on it,
 * and its next fault waits for the same grace.
 *
 * Return: whether there was anything to wait for; the fault is to be tried again.
 */
bool graceful_shutdown_fault_oom(void)
{
	struct gs_grace *head = gs_left_for();
	struct gs_budget *budget;
	int err;

	if (!head)
		return false;
	budget = gs_bill(head->who.memcg);
	err = wait_event_interruptible(head->wait, gs_grace_settled(head));
	gs_unbill(budget);
	if (!err)
		gs_decide_after_fault(head);
	gs_grace_leave(head);
	return true;
}

/*
 * It is through. One that failed for want of memory comes to
 * graceful_shutdown_fault_oom() when its locks are dropped. A fault in a file may
 * have dropped them already, for I/O, and is tried again where a page failed: it
 * waits here.
 */
void __graceful_shutdown_fault_end(vm_fault_t ret)
{
	if (ret & VM_FAULT_RETRY)
		graceful_shutdown_fault_oom();
	else if (!(ret & VM_FAULT_OOM) || !graceful_shutdown_left())
		gs_fault_forget();
}
