/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_GRACEFUL_SHUTDOWN_H
#define _MM_GRACEFUL_SHUTDOWN_H

/*
 * Inside of graceful shutdown: what its parts tell each other.
 *
 * Locks, outermost first:
 *
 *	gs_state_mutex		switching on and off; may sleep for memory
 *	gs_registry_mutex	writers of the registry; nothing is allocated
 *				while it is held
 *	oom_lock		the OOM killer's own
 *	gs_lock			entries, graces, launchers, sessions; interrupts
 *				off, since the deadline's timer takes it
 *	event lock		the record ring
 *
 * The OOM path takes none of the mutexes but oom_lock.
 */

#include <linux/cred.h>
#include <linux/hrtimer.h>
#include <linux/list.h>
#include <linux/memcontrol.h>
#include <linux/mutex.h>
#include <linux/oom.h>
#include <linux/path.h>
#include <linux/pid.h>
#include <linux/ptrace.h>
#include <linux/rbtree.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/wait.h>

#define GS_VERSION		"0.1"
#define GS_ABI			1

#define GS_MAX_RUNNING		64	/* ceiling of max_running */
#define GS_SESSION_TASKS	1024	/* processes of all handlers together */

enum gs_event {
	GS_GRACE,
	GS_DONE,
	GS_TIMEOUT,
	GS_FAILED,
	GS_AVERTED,
	GS_GONE,
	GS_KILL,
	GS_NR_EVENTS
};

struct fs_struct;
struct gs_budget;
struct gs_grace;
struct gs_launcher;
struct ucounts;

/**
 * struct graceful_shutdown_ops - what the attachment lends to the core
 * @attachment: "builtin" or "module"
 * @page_by_page: the allocator asks for what is set aside by itself
 * @oom_lock: serialises the OOM killer
 * @disabled: nobody may be killed, since user space is frozen
 * @probes_register: start calling graceful_shutdown_forked() and _exiting()
 * @probes_unregister: stop it, and wait until the last call has returned
 * @setsid: setsid(2)
 * @set_fs_root: set_fs_root()
 * @set_fs_pwd: set_fs_pwd()
 * @get_ucounts: get_ucounts(); NULL where credentials have none, before 5.14
 * @put_ucounts: put_ucounts(); likewise
 * @free_uid: free_uid(), which is exported since 5.14
 * @cred_free: security_cred_free()
 * @cred_alloc_blank: security_cred_alloc_blank()
 * @transfer_creds: security_transfer_creds()
 * @cpuset_node_allowed: cpuset_node_allowed()
 * @zone_watermark_ok: zone_watermark_ok()
 * @swappiness: of memory cgroups that have none of their own
 * @may_access: ptrace_may_access()
 * @oom_group: mem_cgroup_get_oom_group()
 * @scan_tasks: mem_cgroup_scan_tasks()
 * @leave_fault: let current's allocation fail, so that it waits for @head, of
 *	which it stays a waiter, at the end of its page fault; whether it does.
 *	NULL where there is no such thing
 * @decides: the kill for which current has waited there, and decides now; or NULL
 * @count: count an event in /proc/vmstat; NULL where there is no place for it
 *
 * These are not exported to modules, or static; everything else that the core
 * calls is in a public header and exported. So most are just the kernel's own,
 * which a module has to find by name.
 */
struct graceful_shutdown_ops {
	const char *attachment;
	bool page_by_page;
	struct mutex *oom_lock; /* the OOM killer's */
	bool (*disabled)(void);
	int (*probes_register)(void);
	void (*probes_unregister)(void);
	int (*setsid)(void);
	void (*set_fs_root)(struct fs_struct *fs, const struct path *path);
	void (*set_fs_pwd)(struct fs_struct *fs, const struct path *path);
	struct ucounts *(*get_ucounts)(struct ucounts *ucounts);
	void (*put_ucounts)(struct ucounts *ucounts);
	void (*free_uid)(struct user_struct *user);
	void (*cred_free)(struct cred *cred);
	int (*cred_alloc_blank)(struct cred *cred, gfp_t gfp);
	void (*transfer_creds)(struct cred *new, const struct cred *old);
	bool (*cpuset_node_allowed)(int node, gfp_t gfp_mask);
	bool (*zone_watermark_ok)(struct zone *zone, unsigned int order,
				  unsigned long mark, int highest_zoneidx,
				  unsigned int alloc_flags);
	const int *swappiness;
	bool (*may_access)(struct task_struct *task, unsigned int mode);
	struct mem_cgroup *(*oom_group)(struct task_struct *victim,
					struct mem_cgroup *domain);
	typeof(mem_cgroup_scan_tasks) *scan_tasks;
	bool (*leave_fault)(const struct gs_grace *head,
			    const struct oom_control *oc);
	struct gs_grace *(*decides)(void);
	void (*count)(enum gs_event event);
};

int graceful_shutdown_attach(const struct graceful_shutdown_ops *ops);
void graceful_shutdown_detach(void);
void graceful_shutdown_forked(struct task_struct *parent,
			      struct task_struct *child);
void graceful_shutdown_exiting(struct task_struct *task);

/* Which file a handler's path meant when it was registered. */
struct gs_file_id {
	dev_t dev;
	u32 generation;
	unsigned long ino;
	loff_t size;
	struct timespec64 ctime;
};

/**
 * struct gs_entry - one registration
 * @hash: in gs_hash, by @pid
 * @node: in gs_entries, in the order of registration
 * @rcu: frees it
 * @refs: the registry's, and that of each grace and batch that uses it
 * @serial: its key there
 * @pid: the thread group
 * @cred: the opener's credentials
 * @privileged: the opener had CAP_SYS_ADMIN
 * @tree: it covers the descendants of @pid, too
 * @signal: what the victim is sent when grace begins, or 0
 * @file: the handler's file, where there is a handler
 * @grace_ms: 0 means the sysctl's value when grace begins
 * @argc: words of the command; 0 means a signal alone
 * @words_len: bytes behind @argv
 * @argv: the words' addresses and NULL; the words themselves stand behind
 *
 * The links and @file are guarded by gs_lock; nothing else changes.
 */
struct gs_entry {
	struct hlist_node hash;
	struct rb_node node;
	struct rcu_head rcu;
	refcount_t refs;
	u64 serial;
	struct pid *pid;
	const struct cred *cred;
	bool privileged;
	bool tree;
	unsigned int signal;
	struct gs_file_id file;
	unsigned int grace_ms;
	int argc;
	size_t words_len;
	char *argv[];
};

/**
 * struct gs_victim - whom an event is about
 * @pid: in the initial pid namespace
 * @comm: its name
 * @uid: in the initial user namespace
 * @constraint: kind of OOM
 * @memcg: the memory cgroup that met its limit, NULL for a global OOM
 */
struct gs_victim {
	pid_t pid;
	char comm[TASK_COMM_LEN];
	uid_t uid;
	enum oom_constraint constraint;
	struct mem_cgroup *memcg;
};

enum gs_fate {
	GS_UNDECIDED,
	GS_KILLED,	/* or is about to be */
	GS_SPARED,	/* averted, or gone by itself */
};

/**
 * struct gs_grace - a victim in its grace, and its handler's session
 * @busy: in use
 * @over: the handler has ended, one way or the other
 * @gone: the victim has ended by itself
 * @outcome: how the handler ended, as the kill record has it
 * @entry: the registration
 * @victim: the victim's thread group
 * @who: the same for the event records; holds a reference on the memcg
 * @handler: the handler's thread group, NULL where there is a signal alone
 * @begin_ns: when the victim was chosen, CLOCK_BOOTTIME
 * @deadline_ns: when grace ends, CLOCK_BOOTTIME
 * @grace_ms: time between the two
 * @points: how the OOM killer weighed the victim
 * @launcher: what becomes the handler; valid until it is told to go
 * @seq: number of the grace record
 * @rss_kb: the victim's resident memory then
 * @deadline: the timer for it
 * @tasks: the session: the handler and all that descends from it
 * @head: the first grace of the same kill, itself in most cases. With
 *	memory.oom.group one kill is the end of several victims
 * @ended: no handler of this kill is left to wait for
 * @ended_ns: when that was, CLOCK_BOOTTIME
 * @fate: what becomes of the victims
 * @budget: the domain's, which the kill is charged to until @ended or decided;
 *	NULL then
 * @waiters: askers that wait for this kill
 * @wait: where they do
 *
 * From @ended on the members are those of the kill, and used in its head alone.
 * The slots of a kill are free again when all its graces are over, nobody waits,
 * and the sessions are empty. Guarded by gs_lock; @fate is written with oom_lock
 * held, too, but for GS_SPARED when the victims have gone.
 */
struct gs_grace {
	bool busy;
	bool over;
	bool gone;
	const char *outcome;
	struct gs_entry *entry;
	struct pid *victim;
	struct gs_victim who;
	struct pid *handler;
	u64 begin_ns;
	u64 deadline_ns;
	unsigned int grace_ms;
	long points;
	struct gs_launcher *launcher;
	u64 seq;
	unsigned long rss_kb;
	struct hrtimer deadline;
	struct list_head tasks;
	struct gs_grace *head;

	bool ended;
	u64 ended_ns;
	enum gs_fate fate;
	struct gs_budget *budget;
	unsigned int waiters;
	wait_queue_head_t wait;
};

/**
 * struct gs_mm_facts - what is known of a process's memory
 * @rss_kb: resident
 * @swap_kb: swapped out
 * @anon_kb: resident, and not of a file
 * @reaped: the OOM reaper is through with it, or may not touch it
 * @in_domain: it is charged to the domain in question
 * @dumpable: its owner may look into it
 */
struct gs_mm_facts {
	unsigned long rss_kb;
	unsigned long swap_kb;
	unsigned long anon_kb;
	bool reaped;
	bool in_domain;
	bool dumpable;
};

/* graceful_shutdown.c */
extern const struct graceful_shutdown_ops *gs_ops;
extern spinlock_t gs_lock;
extern int gs_sysctl_enabled;
extern int gs_sysctl_grace_ms;
extern int gs_sysctl_max_grace_ms;
extern int gs_sysctl_max_entries;
extern int gs_sysctl_max_running;
extern int gs_sysctl_unprivileged;
extern int gs_sysctl_handler_max_kb;
extern int gs_sysctl_reserve_kb;
int gs_activate(void);
void gs_deactivate(void);
void gs_upkeep_in(unsigned long delay);

/* graceful_shutdown_facts.c */
bool gs_is_dying(struct task_struct *task);
bool gs_in_domain(struct task_struct *task, struct mem_cgroup *domain);
bool gs_mm_look(struct task_struct *task, struct mem_cgroup *domain,
		struct gs_mm_facts *facts);
bool gs_is_owner(const struct cred *cred, struct task_struct *task,
		 const struct gs_mm_facts *facts);
void gs_victim_init(struct gs_victim *v, struct task_struct *task,
		    const struct oom_control *oc);
bool gs_enough(const struct oom_control *oc, unsigned long *free_kb);

/*
 * May current, with the credentials that it has now, look into @task? Not for
 * attaching: the Yama module would ask for kinship there, which a handler never has.
 */
static inline bool gs_may_access(struct task_struct *task)
{
	return gs_ops->may_access(task, PTRACE_MODE_READ_FSCREDS);
}

/* Where a cpuset or a memory policy bounds the OOM, only an allocation can judge it. */
static inline bool gs_is_bounded(enum oom_constraint constraint)
{
	return constraint == CONSTRAINT_CPUSET ||
	       constraint == CONSTRAINT_MEMORY_POLICY;
}

static inline unsigned long gs_kb(unsigned long pages)
{
	return pages << (PAGE_SHIFT - 10);
}

/* graceful_shutdown_grace.c */
void gs_graces_init(void);
void gs_graces_exit(void);
bool gs_graces_run(void);
bool gs_global_grace_runs(void);
bool gs_machine_grace_runs(const struct pid *victim);
struct gs_grace *gs_grace_join(const struct oom_control *oc,
			       struct task_struct *victim, bool *late);
struct gs_grace *gs_grace_join_own(void);
bool gs_grace_awaits(struct task_struct *victim, struct mem_cgroup *domain);
struct gs_grace *gs_grace_begin(const struct oom_control *oc,
				struct task_struct *victim);
bool gs_victim_saves_itself(void);
bool gs_grace_pends(const struct pid *victim);
void gs_grace_leave(struct gs_grace *head);
void gs_grace_end(struct gs_grace *g, enum gs_event event, int value);
void gs_grace_try_free(struct gs_grace *g);
void gs_graces_gone(struct pid *victim);
bool gs_grace_settled(const struct gs_grace *head);
bool gs_grace_foreign(const struct gs_grace *head,
		      const struct oom_control *oc);
void gs_grace_spare(struct gs_grace *head, unsigned long free_kb);
bool gs_grace_kill(struct gs_grace *head);
struct gs_grace *gs_grace_killed(struct pid *victim);
unsigned int gs_grace_index(const struct gs_grace *g);
struct gs_grace *gs_grace_at(unsigned int index);

/* graceful_shutdown_ask.c */
struct gs_budget *gs_bill(const struct mem_cgroup *memcg);
void gs_unbill(struct gs_budget *budget);
struct task_struct *gs_grace_victim(const struct gs_grace *head,
				    struct mem_cgroup *domain);

/* graceful_shutdown_fault.c */
struct gs_grace *gs_fault_decides(void);
bool gs_fault_leave(const struct gs_grace *head, const struct oom_control *oc);
void gs_fault_forget(void);

/* graceful_shutdown_spent.c */
void gs_spent_set(struct pid *victim, const char *outcome, u64 until_ns);
void gs_spent_spare(struct pid *victim, const char *outcome, u64 until_ns);
const char *gs_spent_outcome(struct pid *victim);
struct task_struct *gs_spent_due(unsigned int *index);
void gs_spent_exited(struct pid *victim);
void gs_spent_drop(void);

/* graceful_shutdown_budget.c */
unsigned int gs_budget_left(const struct mem_cgroup *memcg);
struct gs_budget *gs_budget_enter(const struct mem_cgroup *memcg);
void gs_budget_leave(struct gs_budget *b);

/* graceful_shutdown_registry.c */
int gs_registry_init(void);
void gs_registry_exit(void);
unsigned int gs_registry_count(void);
struct gs_entry *gs_entry_find(struct pid *pid);
struct gs_entry *gs_entry_covering(struct task_struct *task);
const char *gs_entry_handler(const struct gs_entry *e);
void gs_entry_get(struct gs_entry *e);
void gs_entry_put(struct gs_entry *e);
void gs_registry_exited(struct pid *pid);

/* graceful_shutdown_session.c */
int gs_session_init(void);
void gs_session_exit(void);
bool gs_session_has(struct pid *pid);
struct gs_grace *gs_session_of(struct pid *pid);
bool gs_session_add(struct gs_grace *g, struct pid *pid);
void gs_session_forked(struct pid *parent, struct task_struct *child);
struct gs_grace *gs_session_exited(struct pid *pid);
void gs_session_kill(struct gs_grace *g);

/* graceful_shutdown_handler.c */
int gs_check_handler(const char *path, const struct cred *cred,
		     struct gs_file_id *id);
int gs_init_root(struct path *root);
bool gs_launchers_fill(void);
void gs_launchers_wait(void);
void gs_launchers_drop(void);
void gs_launchers_end(void);
struct gs_launcher *gs_launcher_take(struct gs_grace *g);
void gs_launcher_go(struct gs_launcher *l, u64 seq, unsigned long rss_kb);

/* graceful_shutdown_reserve.c */
unsigned long gs_reserve_default_kb(void);
bool gs_reserve_gather(void);
void gs_reserve_drop(void);
bool gs_reserve_hand_over(bool first);
unsigned long gs_reserve_held(void);
unsigned long gs_reserve_out(void);

/* graceful_shutdown_events.c */
int gs_events_init(void);
void gs_events_exit(void);
u64 gs_event_emit(enum gs_event event, const struct gs_victim *v,
		  const char *handler, const char *fmt, ...) __printf(4, 5);
const char *gs_event_name(enum gs_event event);
u64 gs_event_count(enum gs_event event);
size_t gs_memcg_path(struct mem_cgroup *memcg, char *buf, size_t size);
const char *gs_constraint_name(enum oom_constraint constraint);

#endif /* _MM_GRACEFUL_SHUTDOWN_H */
