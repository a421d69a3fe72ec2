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

static bool gs_disabled(void)
{
	lockdep_assert_held(&oom_lock);
	return oom_killer_disabled;
}

static const struct graceful_shutdown_ops gs_builtin_ops = {
	.attachment		= "builtin",
	.page_by_page		= true,
	.oom_lock		= &oom_lock,
	.disabled		= gs_disabled,
	.probes_register	= gs_probes_register,
	.probes_unregister	= gs_probes_unregister,
	.setsid			= ksys_setsid,
	.set_fs_root		= set_fs_root,
	.set_fs_pwd		= set_fs_pwd,
	.get_ucounts		= gs_get_ucounts,
	.put_ucounts		= gs_put_ucounts,
	.free_uid		= free_uid,
	.cred_free		= security_cred_free,
	.cred_alloc_blank	= security_cred_alloc_blank,
	.transfer_creds		= security_transfer_creds,
	.cpuset_node_allowed	= cpuset_node_allowed,
	.zone_watermark_ok	= zone_watermark_ok,
	.swappiness		= &vm_swappiness,
	.may_access		= ptrace_may_access,
	.oom_group		= mem_cgroup_get_oom_group,
	.scan_tasks		= mem_cgroup_scan_tasks,
	.leave_fault		= gs_fault_leave,
	.decides		= gs_fault_decides,
	.count			= gs_count,
};

static int __init gs_builtin_init(void)
{
	return graceful_shutdown_attach(&gs_builtin_ops);
}
fs_initcall(gs_builtin_init);
