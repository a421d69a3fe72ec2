// SPDX-License-Identifier: GPL-2.0
/*
 * What there is to know of a process and of memory, when an OOM is to be decided.
 */

#include <linux/cgroup.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/nodemask.h>
#include <linux/page_counter.h>
#include <linux/sched/coredump.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>

#include "graceful_shutdown.h"
#include "graceful_shutdown_compat.h"

/*
 * Uncertain means yes: who is on its way out gets no grace. A process whose main
 * thread alone has gone is not.
 */
bool gs_is_dying(struct task_struct *task)
{
	return (task->signal->flags & SIGNAL_GROUP_EXIT) ||
	       (thread_group_empty(task) && (task->flags & PF_EXITING)) ||
	       !atomic_read(&task->signal->live) || gs_dumps_core(task) ||
	       tsk_is_oom_victim(task);
}

bool gs_in_domain(struct task_struct *task, struct mem_cgroup *domain)
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
			facts->anon_kb = gs_kb(get_mm_counter(t->mm,
							      MM_ANONPAGES));
			facts->reaped = test_bit(MMF_OOM_SKIP, &t->mm->flags);
			facts->in_domain = gs_in_domain(t, domain);
			facts->dumpable = get_dumpable(t->mm) == SUID_DUMP_USER;
			found = true;
		}
		task_unlock(t);
		if (found)
			break;
	}
	rcu_read_unlock();
	return found;
}

/**
 * gs_is_owner - does a process belong to a user, whole and undivided
 * @cred: the user's credentials
 * @task: the process
 * @facts: of its memory
 *
 * The same as ptrace(2) asks for, without the security modules. ptrace_may_access()
 * does not ask at all where the process is current's own.
 */
bool gs_is_owner(const struct cred *cred, struct task_struct *task,
		 const struct gs_mm_facts *facts)
{
	const struct cred *t;
	bool owner;

	rcu_read_lock();
	t = __task_cred(task);
	owner = facts->dumpable && t->user_ns == cred->user_ns &&
		uid_eq(t->uid, cred->euid) && uid_eq(t->euid, cred->euid) &&
		uid_eq(t->suid, cred->euid) && gid_eq(t->gid, cred->egid) &&
		gid_eq(t->egid, cred->egid) && gid_eq(t->sgid, cred->egid) &&
		cap_issubset(t->cap_permitted, cred->cap_permitted);
	rcu_read_unlock();
	return owner;
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
 * By the allocator's own measure: some zone that @oc may use holds @pages above its
 * high watermark.
 */
static bool gs_zones_have(const struct oom_control *oc, unsigned long pages)
{
	struct zonelist *zonelist = oc->zonelist ?:
		node_zonelist(first_memory_node, GFP_KERNEL);
	enum zone_type highest = gfp_zone(oc->gfp_mask ?: GFP_KERNEL);
	struct zoneref *z;

	/* Step by step, since the iterator's function is not exported. */
	for (z = zonelist->_zonerefs; z->zone; z++) {
		int node = zonelist_node_idx(z);

		if (zonelist_zone_idx(z) > highest ||
		    (oc->nodemask && !node_isset(node, *oc->nodemask)) ||
		    !gs_ops->cpuset_node_allowed(node, oc->gfp_mask |
							 __GFP_HARDWALL))
			continue;
		if (gs_ops->zone_watermark_ok(z->zone, oc->order,
					      high_wmark_pages(z->zone) + pages,
					      highest, 0))
			return true;
	}
	return false;
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
bool gs_enough(const struct oom_control *oc, unsigned long *free_kb)
{
	unsigned long room;

	if (!oc->memcg) {
		/* Of a large machine this much is plenty. */
		room = min(totalram_pages(), (unsigned long)SZ_1G >> PAGE_SHIFT);
		*free_kb = gs_kb(global_zone_page_state(NR_FREE_PAGES));
		return gs_zones_have(oc, gs_pages_wanted(oc, room) +
					 gs_reserve_out());
	}
	room = gs_memcg_room(oc->memcg);
	*free_kb = gs_kb(room);
	return room >= gs_pages_wanted(oc, READ_ONCE(oc->memcg->memory.max));
}
