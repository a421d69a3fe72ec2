// SPDX-License-Identifier: GPL-2.0
/*
 * Graceful shutdown in a patched kernel: lends the core what is not exported.
 */

#include <linux/cpuset.h>
#include <linux/fs_struct.h>
#include <linux/init.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/ptrace.h>
#include <linux/security.h>
#include <linux/swap.h>
#include <linux/syscalls.h>
#include <trace/events/sched.h>

#include <linux/graceful_shutdown.h>
#include "graceful_shutdown.h"
#include "graceful_shutdown_compat.h"

static void gs_probe_fork(void *data, struct task_struct *parent,
			  struct task_struct *child)
{
	graceful_shutdown_forked(parent, child);
}

static void gs_probe_exit(void *data, struct task_struct *task)
{
	gs_fault_forget();
	graceful_shutdown_exiting(task);
}

static int gs_probes_register(void)
{
	int err = register_trace_sched_process_fork(gs_probe_fork, NULL);

	if (err)
		return err;
	err = register_trace_sched_process_exit(gs_probe_exit, NULL);
	if (err)
		unregister_trace_sched_process_fork(gs_probe_fork, NULL);
	return err;
}

static void gs_probes_unregister(void)
{
	unregister_trace_sched_process_exit(gs_probe_exit, NULL);
	unregister_trace_sched_process_fork(gs_probe_fork, NULL);
	tracepoint_synchronize_unregister();
}

static void gs_set_root(const struct path *root)
{
	set_fs_root(current->fs, root);
	set_fs_pwd(current->fs, root);
}

/* The hook expects blank credentials, and @new has root's label already. */
static int gs_transfer_label(struct cred *new, const struct cred *old)
{
	int err;

	security_cred_free(new);
	err = security_cred_alloc_blank(new, GFP_KERNEL);
	if (!err)
		security_transfer_creds(new, old);
	return err;
}

static int gs_transfer_creds(struct cred *new, const struct cred *old)
{
	int err = gs_transfer_user(new, old);

	return err ?: gs_transfer_label(new, old);
}

/* By the allocator's own measure, at the high watermark and @pages above it. */
static bool gs_zones_have(const struct oom_control *oc, unsigned long pages)
{
	struct zonelist *zonelist = oc->zonelist ?:
		node_zonelist(first_memory_node, GFP_KERNEL);
	enum zone_type highest = gfp_zone(oc->gfp_mask ?: GFP_KERNEL);
	struct zone *zone;
	struct zoneref *z;

	for_each_zone_zonelist_nodemask(zone, z, zonelist, highest,
					oc->nodemask) {
		if (!cpuset_zone_allowed(zone, oc->gfp_mask | __GFP_HARDWALL))
			continue;
		if (zone_watermark_ok(zone, oc->order,
				      high_wmark_pages(zone) + pages, highest,
				      0))
			return true;
	}
	return false;
}

static int gs_swappiness(struct mem_cgroup *memcg)
{
	return mem_cgroup_swappiness(memcg);
}

/*
 * Not for attaching: the Yama module would ask for kinship there, which a handler
 * never has.
 */
static bool gs_may_access(struct task_struct *task)
{
	return ptrace_may_access(task, PTRACE_MODE_READ_FSCREDS);
}

static void gs_scan_tasks(struct mem_cgroup *memcg,
			  int (*fn)(struct task_struct *task, void *arg),
			  void *arg)
{
	mem_cgroup_scan_tasks(memcg, fn, arg);
}

static void gs_count(enum gs_event event)
{
	static const enum vm_event_item items[] = {
		[GS_GRACE] = OOM_GRACEFUL_GRACE,
		[GS_DONE] = OOM_GRACEFUL_DONE,
		[GS_TIMEOUT] = OOM_GRACEFUL_TIMEOUT,
		[GS_FAILED] = OOM_GRACEFUL_FAILED,
		[GS_AVERTED] = OOM_GRACEFUL_AVERTED,
	};

	if (event < ARRAY_SIZE(items))
		count_vm_event(items[event]);
}

static const struct graceful_shutdown_ops gs_builtin_ops = {
	.attachment		= "builtin",
	.page_by_page		= true,
	.oom_lock		= &oom_lock,
	.oom_killer_disabled	= &oom_killer_disabled,
	.probes_register	= gs_probes_register,
	.probes_unregister	= gs_probes_unregister,
	.setsid			= ksys_setsid,
	.set_root		= gs_set_root,
	.transfer_creds		= gs_transfer_creds,
	.zones_have		= gs_zones_have,
	.swappiness		= gs_swappiness,
	.may_access		= gs_may_access,
	.oom_group		= mem_cgroup_get_oom_group,
	.scan_tasks		= gs_scan_tasks,
	.leave_fault		= gs_fault_leave,
	.decides		= gs_fault_decides,
	.count			= gs_count,
};

static int __init gs_builtin_init(void)
{
	return graceful_shutdown_attach(&gs_builtin_ops);
}
fs_initcall(gs_builtin_init);
