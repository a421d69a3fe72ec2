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

#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/proc_fs.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/seq_file.h>
#include <linux/sysctl.h>
#include <linux/workqueue.h>

#include <linux/graceful_shutdown.h>
#include "graceful_shutdown.h"
#include "graceful_shutdown_compat.h"

/* How long everything stays ready after the last registration has gone. */
#define GS_IDLE_DELAY		(10 * HZ)

DEFINE_STATIC_KEY_FALSE(graceful_shutdown_active);

const struct graceful_shutdown_ops *gs_ops __read_mostly;
DEFINE_SPINLOCK(gs_lock);

int gs_sysctl_enabled = 1;
int gs_sysctl_grace_ms = 2000;
int gs_sysctl_max_grace_ms = 30000;
int gs_sysctl_max_entries = 65536;
int gs_sysctl_max_running = 16;
int gs_sysctl_unprivileged;
int gs_sysctl_handler_max_kb = 65536;
int gs_sysctl_reserve_kb;

static struct ctl_table_header *gs_sysctl_header;
static struct proc_dir_entry *gs_features;

/* Guarded by gs_state_mutex. */
static DEFINE_MUTEX(gs_state_mutex);
static unsigned int gs_pins;	/* writers that are about to register */
static bool gs_active;
static unsigned long gs_idle_from;	/* jiffies; not idle before */

/* Of gs_upkeep_work alone. */
static unsigned long gs_retry_delay = HZ / 10;

static void gs_upkeep(struct work_struct *work);
static DECLARE_DELAYED_WORK(gs_upkeep_work, gs_upkeep);

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
	gs_spent_exited(pid);
	session = gs_session_exited(pid);
	if (session && session->handler == pid)
		gs_grace_end(session, GS_DONE, gs_exit_status(task));
	if (session)
		gs_grace_try_free(session);
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
	gs_spent_drop();
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
	idle = !gs_pins && !gs_registry_count() && !gs_graces_run();
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

/* What only some attachments give. */
static void gs_capabilities_show(struct seq_file *m)
{
	const char *const names[] = {
		gs_ops->leave_fault ? "fault-end" : NULL,
		gs_ops->page_by_page ? "page-by-page" : NULL,
		gs_ops->count ? "vmstat" : NULL,
	};
	const char *comma = "";
	int i;

	seq_puts(m, "capabilities=");
	for (i = 0; i < ARRAY_SIZE(names); i++) {
		if (!names[i])
			continue;
		seq_printf(m, "%s%s", comma, names[i]);
		comma = ",";
	}
	seq_putc(m, '\n');
}

static int gs_features_show(struct seq_file *m, void *v)
{
	enum gs_event event;

	seq_printf(m, "abi=%d\nattachment=%s\nversion=%s\n", GS_ABI,
		   gs_ops->attachment, GS_VERSION);
	seq_printf(m, "series=%u.%u\n", GS_SERIES_MAJOR, GS_SERIES_MINOR);
	gs_capabilities_show(m);
	seq_puts(m, "keys=grace_ms,signal,scope\n");
	seq_puts(m, "events=grace,done,timeout,failed,averted,gone,kill,lost\n");
	seq_printf(m, "wait=%s\n",
		   gs_ops->leave_fault ? "fault-end" : "in-place");
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
static int gs_least_handler_kb = 1024;

/* The pool of launchers follows max_running, and what is set aside reserve_kb. */
static int gs_sysctl_upkeep(GS_CTL_CONST struct ctl_table *table, int write,
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
		  &gs_max_running, gs_sysctl_upkeep),
	GS_SYSCTL("unprivileged", &gs_sysctl_unprivileged, SYSCTL_ZERO,
		  SYSCTL_ONE, proc_dointvec_minmax),
	GS_SYSCTL("handler_max_kb", &gs_sysctl_handler_max_kb,
		  &gs_least_handler_kb, SYSCTL_INT_MAX, proc_dointvec_minmax),
	GS_SYSCTL("reserve_kb", &gs_sysctl_reserve_kb, SYSCTL_ZERO,
		  SYSCTL_INT_MAX, gs_sysctl_upkeep),
	GS_CTL_TABLE_END
};

/**
 * graceful_shutdown_detach - take the core from a kernel
 *
 * Whoever is registered is so no longer. The caller has seen to it that no OOM is
 * in the core, nor comes there; and that there is no grace, since each of them has
 * a reference on the module. Afterwards who came from here may still be on the way
 * out, but sleeps no more until there.
 */
void graceful_shutdown_detach(void)
{
	const struct graceful_shutdown_ops *ops = gs_ops;

	proc_remove(gs_features);
	unregister_sysctl_table(gs_sysctl_header);
	gs_registry_exit();
	mutex_lock(&gs_state_mutex);
	if (gs_active)
		gs_switch_off();
	mutex_unlock(&gs_state_mutex);
	/* There may be kills still to come; one that has seen it holds oom_lock. */
	gs_ops = NULL;
	if (ops) {
		mutex_lock(ops->oom_lock);
		mutex_unlock(ops->oom_lock);
	}
	gs_launchers_end();
	cancel_delayed_work_sync(&gs_upkeep_work);
	gs_graces_exit();
	gs_session_exit();
	gs_events_exit();
	rcu_barrier();
}

/**
 * graceful_shutdown_attach - join the core to a kernel
 * @ops: what the core cannot reach by itself; must stay valid
 *
 * Return: 0 or -ENOMEM.
 */
int graceful_shutdown_attach(const struct graceful_shutdown_ops *ops)
{
	int err;

	gs_graces_init();
	gs_sysctl_reserve_kb = gs_reserve_default_kb();
	err = gs_events_init();
	if (err)
		goto out;
	gs_ops = ops;
	err = gs_registry_init();
	if (err)
		goto out;
	err = -ENOMEM;
	gs_sysctl_header = register_sysctl("vm", gs_sysctls);
	gs_features = proc_create_single("graceful_shutdown_features", 0444,
					 NULL, gs_features_show);
	if (gs_sysctl_header && gs_features)
		return 0;
out:
	graceful_shutdown_detach();
	return err;
}
