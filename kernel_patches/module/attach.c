// SPDX-License-Identifier: GPL-2.0
/*
 * Graceful shutdown as a module, for a kernel that is not patched.
 *
 * Every kill of the OOM killer goes through oom_kill_process(), with the victim
 * chosen and oom_lock held. A hook there leads into the core first. A second hook,
 * where __oom_kill_process() begins to kill, feeds the event stream. What the core
 * needs and the kernel does not export is found by name.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/ftrace.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/oom.h>
#include <linux/rcupdate.h>
#include <linux/sched/task.h>
#include <linux/string.h>
#include <linux/suspend.h>
#include <linux/tracepoint.h>

#include <linux/graceful_shutdown.h>
#include "graceful_shutdown.h"
#include "graceful_shutdown_compat.h"

/* ---- what the kernel does not export ----------------------------------- */

static int gs_probes_register(void);
static void gs_probes_unregister(void);
static bool gs_disabled(void);

static struct graceful_shutdown_ops gs_module_ops = {
	.attachment		= "module",
	.disabled		= gs_disabled,
	.probes_register	= gs_probes_register,
	.probes_unregister	= gs_probes_unregister,
};

static unsigned long (*gs_lookup_name)(const char *name);
static void (*gs_original)(struct oom_control *oc, const char *message);
static unsigned long gs_kill_address;
static struct task_struct *(*gs_find_lock_task_mm)(struct task_struct *task);
static const int *gs_ftrace_enabled;
static const bool *gs_oom_killer_disabled;
static bool (*gs_disable_oom_killer)(signed long timeout);
static void (*gs_enable_oom_killer)(void);

/**
 * struct gs_symbol - something to be found
 * @name: what it is called
 * @alias: what it was called in older kernels, or NULL
 * @where: the pointer to it
 * @data: no function; without CONFIG_KALLSYMS_ALL it has no name, and there is
 *	another way, or none is needed
 */
struct gs_symbol {
	const char *name;
	const char *alias;
	void *where;
	bool data;
};

static const struct gs_symbol gs_symbols[] = {
	{ "oom_kill_process", NULL, &gs_original },
	{ "__oom_kill_process", NULL, &gs_kill_address },
	{ "find_lock_task_mm", NULL, &gs_find_lock_task_mm },
	{ "ftrace_enabled", NULL, &gs_ftrace_enabled, GS_HOOK_STAYS },
	{ "oom_lock", NULL, &gs_module_ops.oom_lock, true },
	{ "oom_killer_disabled", NULL, &gs_oom_killer_disabled, true },
	{ "oom_killer_disable", NULL, &gs_disable_oom_killer },
	{ "oom_killer_enable", NULL, &gs_enable_oom_killer },
	{ "ksys_setsid", NULL, &gs_module_ops.setsid },
	{ "set_fs_root", NULL, &gs_module_ops.set_fs_root },
	{ "set_fs_pwd", NULL, &gs_module_ops.set_fs_pwd },
#if GS_HAS_UCOUNTS
	{ "get_ucounts", NULL, &gs_module_ops.get_ucounts },
	{ "put_ucounts", NULL, &gs_module_ops.put_ucounts },
#endif
	{ "free_uid", NULL, &gs_module_ops.free_uid },
	{ "security_cred_free", NULL, &gs_module_ops.cred_free },
	{ "security_cred_alloc_blank", NULL, &gs_module_ops.cred_alloc_blank },
	{ "security_transfer_creds", NULL, &gs_module_ops.transfer_creds },
	{ "cpuset_node_allowed", "__cpuset_node_allowed",
	  &gs_module_ops.cpuset_node_allowed },
	{ "zone_watermark_ok", NULL, &gs_module_ops.zone_watermark_ok },
	{ "vm_swappiness", NULL, &gs_module_ops.swappiness, true },
	{ "ptrace_may_access", NULL, &gs_module_ops.may_access },
	{ "mem_cgroup_get_oom_group", NULL, &gs_module_ops.oom_group },
	{ "mem_cgroup_scan_tasks", NULL, &gs_module_ops.scan_tasks },
};

/* That one is not exported either, but a probe may be put there by name. */
static int gs_find_lookup_name(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	int err;

	if (gs_tracks_branches()) {
		pr_err("not loaded: this processor's branch tracking forbids to call what the kernel does not export; boot with " GS_BRANCHES_OFF "\n");
		return -EOPNOTSUPP;
	}
	err = register_kprobe(&probe);
	if (err) {
		pr_err("not loaded: no kprobe on kallsyms_lookup_name() (error %d): is CONFIG_KPROBES off, or the kernel locked down?\n",
		       err);
		return err;
	}
	gs_lookup_name = (void *)probe.addr;
	unregister_kprobe(&probe);
	return 0;
}

static int gs_find_symbol(const struct gs_symbol *s)
{
	unsigned long address = gs_lookup_name(s->name);

	if (!address && s->alias)
		address = gs_lookup_name(s->alias);
	if (!address && !s->data) {
		pr_err("not loaded: this kernel has no %s, or the compiler has inlined it\n",
		       s->name);
		return -ENOENT;
	}
	*(unsigned long *)s->where = address;
	return 0;
}

/*
 * Numbers that a compiler gives to copies. One copy may be there alone, the first
 * having been dropped again; there are few, since there are few callers. On kernels
 * that look through all names for one it matters how many are asked for.
 */
#define GS_COPIES	4

/* A copy of a function that the compiler made for some callers escapes the hook. */
static int gs_check_copies(const char *name, const char *kind)
{
	char copy[64];
	int i;

	for (i = 0; i < GS_COPIES; i++) {
		snprintf(copy, sizeof(copy), "%s.%s.%d", name, kind, i);
		if (gs_lookup_name(copy)) {
			pr_err("not loaded: the compiler has split %s() into %s()\n",
			       name, copy);
			return -ENOENT;
		}
	}
	return 0;
}

static int gs_check_whole(const char *name)
{
	static const char *const kinds[] = {
		"isra", "constprop", "part", "isra.0.constprop"
	};
	int i, err = 0;

	for (i = 0; i < ARRAY_SIZE(kinds) && !err; i++)
		err = gs_check_copies(name, kinds[i]);
	return err;
}

static int gs_find_all(void)
{
	int i, err;

	err = gs_find_lookup_name();
	if (err)
		return err;
	/* A function that only a patched kernel has. */
	if (gs_lookup_name("graceful_shutdown_fault_oom")) {
		pr_err("not loaded: this kernel is patched, it needs no module\n");
		return -EEXIST;
	}
	for (i = 0; i < ARRAY_SIZE(gs_symbols) && !err; i++)
		err = gs_find_symbol(&gs_symbols[i]);
	if (!err)
		err = gs_check_whole("oom_kill_process");
	if (!err)
		err = gs_check_whole("__oom_kill_process");
	return err;
}

/* ---- probes ------------------------------------------------------------ */

static struct tracepoint *gs_fork_point, *gs_exit_point;

static void gs_probe_fork(void *data, struct task_struct *parent,
			  struct task_struct *child)
{
	graceful_shutdown_forked(parent, child);
}

static void gs_probe_exit(void *data, struct task_struct *task)
{
	graceful_shutdown_exiting(task);
}

static void gs_look_at_point(struct tracepoint *point, void *unused)
{
	if (!strcmp(point->name, "sched_process_fork"))
		gs_fork_point = point;
	if (!strcmp(point->name, "sched_process_exit"))
		gs_exit_point = point;
}

static int gs_find_points(void)
{
	for_each_kernel_tracepoint(gs_look_at_point, NULL);
	if (gs_fork_point && gs_exit_point)
		return 0;
	pr_err("not loaded: this kernel has no tracepoint sched_process_fork or sched_process_exit\n");
	return -ENOENT;
}

static int gs_probes_register(void)
{
	int err = tracepoint_probe_register(gs_fork_point, gs_probe_fork, NULL);

	if (err)
		return err;
	err = tracepoint_probe_register(gs_exit_point, gs_probe_exit, NULL);
	if (err)
		tracepoint_probe_unregister(gs_fork_point, gs_probe_fork, NULL);
	return err;
}

static void gs_probes_unregister(void)
{
	tracepoint_probe_unregister(gs_exit_point, gs_probe_exit, NULL);
	tracepoint_probe_unregister(gs_fork_point, gs_probe_fork, NULL);
	tracepoint_synchronize_unregister();
}

/* ---- hooks ------------------------------------------------------------- */

/* Askers that are in gs_oom_kill_process(), or on the way there. */
static atomic_t gs_inside = ATOMIC_INIT(0);

/* The original is called on purpose. Guarded by oom_lock, with which it is called. */
static bool gs_passing;

static bool gs_kills_group(const struct oom_control *oc)
{
	struct mem_cgroup *group = gs_module_ops.oom_group(oc->chosen,
							   oc->memcg);

	if (group)
		mem_cgroup_put(group);
	return group;
}

/* In place of oom_kill_process(). */
static void gs_oom_kill_process(struct oom_control *oc, const char *message)
{
	if (static_branch_unlikely(&graceful_shutdown_active))
		__graceful_shutdown_choice(oc);
	if (oc->chosen && oc->chosen != (void *)-1UL) {
		graceful_shutdown_killing(oc, gs_kills_group(oc));
		gs_passing = true;
		gs_original(oc, message);
		gs_passing = false;
	}
	atomic_dec(&gs_inside);
}

static void notrace gs_choice_hook(unsigned long ip, unsigned long parent_ip,
				   struct ftrace_ops *ops,
				   struct ftrace_regs *regs)
{
	if (gs_passing)
		return;
	atomic_inc(&gs_inside);
	gs_hook_divert(regs, (unsigned long)gs_oom_kill_process);
}

/*
 * While the hooks come and go one of them may be there alone: a kill that did not
 * lead through gs_oom_kill_process() has nothing that a record could be made of.
 * Where the victim has no memory any more, nothing is killed.
 */
static void notrace gs_kill_hook(unsigned long ip, unsigned long parent_ip,
				 struct ftrace_ops *ops,
				 struct ftrace_regs *regs)
{
	struct task_struct *victim;

	if (!gs_passing)
		return;
	victim = gs_find_lock_task_mm((void *)gs_hook_argument(regs));
	if (!victim)
		return;
	graceful_shutdown_killed(victim, victim->mm);
	task_unlock(victim);
}

static struct ftrace_ops gs_choice_ops = {
	.func	= gs_choice_hook,
	.flags	= GS_HOOK_FLAGS | FTRACE_OPS_FL_IPMODIFY,
};

static struct ftrace_ops gs_kill_ops = {
	.func	= gs_kill_hook,
	.flags	= GS_HOOK_FLAGS,
};

static int gs_hook(struct ftrace_ops *ops, unsigned long address,
		   const char *name)
{
	int err;

	/* Until 5.4 hooks could be registered then, and were never called. */
	if (gs_ftrace_enabled && !READ_ONCE(*gs_ftrace_enabled)) {
		pr_err("not loaded: kernel.ftrace_enabled is 0\n");
		return -EBUSY;
	}
	err = ftrace_set_filter_ip(ops, address, 0, 0);
	if (!err)
		err = register_ftrace_function(ops);
	if (err == -EBUSY)
		pr_err("not loaded: a live patch or another module has changed %s(), or kernel.ftrace_enabled is 0\n",
		       name);
	else if (err)
		pr_err("not loaded: ftrace gives no hook on %s() (error %d)\n",
		       name, err);
	if (err)
		ftrace_set_filter_ip(ops, address, 1, 0);
	return err;
}

static void gs_unhook(struct ftrace_ops *ops, unsigned long address)
{
	unregister_ftrace_function(ops);
	/* What was allocated for the filter is freed with its last function. */
	ftrace_set_filter_ip(ops, address, 1, 0);
}

static int gs_hooks_register(void)
{
	int err;

	err = gs_hook(&gs_kill_ops, gs_kill_address, "__oom_kill_process");
	if (err)
		return err;
	err = gs_hook(&gs_choice_ops, (unsigned long)gs_original,
		      "oom_kill_process");
	if (err)
		gs_unhook(&gs_kill_ops, gs_kill_address);
	return err;
}

static void gs_hooks_unregister(void)
{
	gs_unhook(&gs_choice_ops, (unsigned long)gs_original);
	/* No grace runs, so they are about to kill, or pause for a jiffy. */
	while (atomic_read(&gs_inside))
		schedule_timeout_uninterruptible(1);
	gs_unhook(&gs_kill_ops, gs_kill_address);
}

/* ---- what has no name -------------------------------------------------- */

/*
 * Where the kernel does not tell the names of its data, oom_lock is what
 * oom_killer_disable() takes first, and gives up where it does not get it.
 */
static struct task_struct *gs_seeker;

/* In place of mutex_lock_killable(), for the seeker. */
static int gs_note_lock(struct mutex *lock)
{
	gs_module_ops.oom_lock = lock;
	return -EINTR;
}

static void notrace gs_lock_hook(unsigned long ip, unsigned long parent_ip,
				 struct ftrace_ops *ops,
				 struct ftrace_regs *regs)
{
	if (current == READ_ONCE(gs_seeker))
		gs_hook_divert(regs, (unsigned long)gs_note_lock);
}

static struct ftrace_ops gs_lock_ops = {
	.func	= gs_lock_hook,
	.flags	= GS_HOOK_FLAGS | FTRACE_OPS_FL_IPMODIFY,
};

static int gs_find_oom_lock(void)
{
	static const char taker[] = "mutex_lock_killable";
	unsigned long address = gs_lookup_name(taker);
	int err;

	if (!address) {
		pr_err("not loaded: this kernel has no oom_lock, and no %s\n",
		       taker);
		return -ENOENT;
	}
	err = gs_hook(&gs_lock_ops, address, taker);
	if (err)
		return err;
	WRITE_ONCE(gs_seeker, current);
	if (gs_disable_oom_killer(0))
		gs_enable_oom_killer();
	WRITE_ONCE(gs_seeker, NULL);
	gs_unhook(&gs_lock_ops, address);
	if (gs_module_ops.oom_lock)
		return 0;
	pr_err("not loaded: oom_killer_disable() does not take oom_lock first\n");
	return -ENOENT;
}

/* A suspend or a hibernation has begun, and is not over yet. */
static bool gs_suspending;

static int gs_suspend_notice(struct notifier_block *block,
			     unsigned long event, void *unused)
{
	WRITE_ONCE(gs_suspending, event == PM_SUSPEND_PREPARE ||
				  event == PM_HIBERNATION_PREPARE ||
				  event == PM_RESTORE_PREPARE);
	return NOTIFY_OK;
}

static struct notifier_block gs_suspend_block = {
	.notifier_call = gs_suspend_notice,
};

/*
 * Where the flag has no name: of those who ask none but a kernel thread can run
 * when user space is frozen.
 */
static bool gs_disabled(void)
{
	if (gs_oom_killer_disabled)
		return *gs_oom_killer_disabled;
	return READ_ONCE(gs_suspending) && (current->flags & PF_KTHREAD);
}

/* ---- coming and going -------------------------------------------------- */

/* What no look at the symbols tells. */
static int __init gs_check_config(void)
{
	if (IS_ENABLED(CONFIG_STATIC_USERMODEHELPER)) {
		pr_err("not loaded: this kernel was built with CONFIG_STATIC_USERMODEHELPER, so no handler could run\n");
		return -EOPNOTSUPP;
	}
	/* There gs_lock sleeps, and a handler of a tracepoint that takes it may not. */
	if (IS_ENABLED(CONFIG_PREEMPT_RT)) {
		pr_err("not loaded: this kernel was built with CONFIG_PREEMPT_RT, where a probe cannot take a lock\n");
		return -EOPNOTSUPP;
	}
	return 0;
}

static int __init gs_module_init(void)
{
	int err = gs_check_config();

	if (!err)
		err = gs_find_all();
	if (!err)
		err = gs_find_points();
	if (!err && !gs_module_ops.oom_lock)
		err = gs_find_oom_lock();
	if (err)
		return err;
	register_pm_notifier(&gs_suspend_block);
	err = gs_hooks_register();
	if (err)
		goto out_notifier;
	/* Last: whoever opens a file of it has a reference from then on. */
	err = graceful_shutdown_attach(&gs_module_ops);
	if (err)
		goto out_hooks;
	pr_info("version %s\n", GS_VERSION);
	return 0;

out_hooks:
	pr_err("not loaded: its files could not be made (error %d)\n", err);
	gs_hooks_unregister();
	synchronize_rcu_tasks();
out_notifier:
	unregister_pm_notifier(&gs_suspend_block);
	return err;
}

/*
 * A grace and an open event stream have references on the module, so there are none.
 * Registrations are dropped.
 */
static void __exit gs_module_exit(void)
{
	gs_hooks_unregister();
	graceful_shutdown_detach();
	unregister_pm_notifier(&gs_suspend_block);
	/* Who left the core may not have left its last function yet. */
	synchronize_rcu_tasks();
}

module_init(gs_module_init);
module_exit(gs_module_exit);

MODULE_DESCRIPTION("Run a handler before the OOM killer kills a process");
MODULE_AUTHOR("gs developers");
MODULE_LICENSE("GPL");
MODULE_VERSION(GS_VERSION);
