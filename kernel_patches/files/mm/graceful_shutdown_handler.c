// SPDX-License-Identifier: GPL-2.0
/*
 * Handlers: how one is started when there is no memory to fork.
 *
 * Launchers are usermode helpers that were forked ahead of time and wait in
 * their init callback. Given a grace they become its handler: they take on the
 * registrant's credentials and exec. Whether that worked is seen in the cleanup
 * callback, since a usermode helper whose exec failed exits with 0.
 */

#include <linux/cred.h>
#include <linux/file.h>
#include <linux/fs_struct.h>
#include <linux/kernel.h>
#include <linux/mount.h>
#include <linux/pid_namespace.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/security.h>
#include <linux/slab.h>
#include <linux/umh.h>

#include "graceful_shutdown.h"
#include "graceful_shutdown_compat.h"

enum gs_launcher_state {
	GS_STARTING,
	GS_PARKED,
	GS_TAKEN,	/* has a grace, its environment is being written */
	GS_STARTED,
	GS_LEAVING,
};

#define GS_ENV_VARS	14
#define GS_ENV_BYTES	(PATH_MAX + 512)

/**
 * struct gs_launcher - a handler to be
 * @list: in gs_parked
 * @state: see enum gs_launcher_state
 * @task: itself; valid while it is parked or taken
 * @pid: its thread group, with a reference
 * @grace: whose handler it becomes
 * @null: /dev/null
 * @kmsg: /dev/kmsg
 * @envp: the handler's environment
 * @env_used: bytes used in @env
 * @env: the strings of @envp
 */
struct gs_launcher {
	struct list_head list;
	enum gs_launcher_state state;
	struct task_struct *task;
	struct pid *pid;
	struct gs_grace *grace;
	struct file *null;
	struct file *kmsg;
	char *envp[GS_ENV_VARS + 1];
	size_t env_used;
	char env[GS_ENV_BYTES];
};

static LIST_HEAD(gs_parked);
static unsigned int gs_nr_parked;
static unsigned int gs_nr_launchers;	/* parked, or on the way there */
static unsigned int gs_nr_infos;	/* of them and of those that were */
static DECLARE_WAIT_QUEUE_HEAD(gs_parked_wait);

/* ---- the handler's file ------------------------------------------------ */

/* The file that was last seen to be a program; guarded by gs_lock. */
static struct gs_file_id gs_last_program;

static bool gs_same_file(const struct gs_file_id *a, const struct gs_file_id *b)
{
	return a->dev == b->dev && a->ino == b->ino &&
	       a->generation == b->generation && a->size == b->size &&
	       timespec64_equal(&a->ctime, &b->ctime);
}

/* Many processes have the same handler, and opening it takes a while. */
static bool gs_is_last_program(const struct gs_file_id *id)
{
	bool same;

	spin_lock_irq(&gs_lock);
	same = gs_same_file(id, &gs_last_program);
	spin_unlock_irq(&gs_lock);
	return same;
}

/* An interpreter's script or an ELF file; nothing else can be exec'd for sure. */
static int gs_check_magic(const struct path *path, const struct cred *cred,
			  const struct gs_file_id *id)
{
	struct file *file;
	char magic[4] = "";
	loff_t pos = 0;
	ssize_t n;

	file = dentry_open(path, O_RDONLY | O_LARGEFILE, cred);
	if (IS_ERR(file))
		return 0;	/* may be executed, but not read */
	n = kernel_read(file, magic, sizeof(magic), &pos);
	fput(file);
	if (n < 0)
		return n;
	if (memcmp(magic, "\177ELF", 4) && memcmp(magic, "#!", 2))
		return -ENOEXEC;
	spin_lock_irq(&gs_lock);
	gs_last_program = *id;
	spin_unlock_irq(&gs_lock);
	return 0;
}

static int gs_check_path(const struct path *path, struct gs_file_id *id)
{
	const struct inode *inode = d_inode(path->dentry);

	if (!S_ISREG(inode->i_mode) || (path->mnt->mnt_flags & MNT_NOEXEC) ||
	    (inode->i_sb->s_iflags & SB_I_NOEXEC))
		return -EACCES;
	id->dev = inode->i_sb->s_dev;
	id->ino = inode->i_ino;
	id->generation = inode->i_generation;
	id->size = i_size_read(inode);
	id->ctime = gs_inode_ctime(inode);
	return gs_path_permission(path, MAY_EXEC | MAY_OPEN);
}

/**
 * gs_check_handler - may this file be run, and which one is it
 * @name: its path
 * @cred: with whose rights
 * @id: which one it is
 *
 * Return: 0, -ENOENT and the like from the path, -EACCES, -ENOEXEC.
 */
int gs_check_handler(const char *name, const struct cred *cred,
		     struct gs_file_id *id)
{
	const struct cred *old = override_creds(cred);
	struct path path;
	int err;

	err = kern_path(name, LOOKUP_FOLLOW, &path);
	if (!err) {
		err = gs_check_path(&path, id);
		if (!err && !gs_is_last_program(id))
			err = gs_check_magic(&path, cred, id);
		path_put(&path);
	}
	revert_creds(old);
	return err;
}

/* ---- launchers --------------------------------------------------------- */

/* It leaves the pool, for whatever reason. */
static void gs_launcher_unpark(struct gs_launcher *l,
			       enum gs_launcher_state state)
{
	lockdep_assert_held(&gs_lock);
	list_del(&l->list);
	gs_nr_parked--;
	gs_nr_launchers--;
	l->state = state;
}

static void gs_launcher_open(struct gs_launcher *l)
{
	if (!l->null)
		l->null = filp_open("/dev/null", O_RDWR, 0);
	if (IS_ERR(l->null))
		l->null = NULL;
	if (!l->kmsg)
		l->kmsg = filp_open("/dev/kmsg", O_WRONLY, 0);
	if (IS_ERR(l->kmsg))
		l->kmsg = NULL;
}

/* Never closed descriptors: the first three files opened would take their place. */
static int gs_launcher_stdio(struct gs_launcher *l, bool privileged)
{
	struct file *out;
	int i, fd;

	gs_launcher_open(l);
	if (!l->null)
		return -ENODEV;
	out = privileged && l->kmsg ? l->kmsg : l->null;
	for (i = 0; i < 3; i++) {
		fd = get_unused_fd_flags(0);
		if (fd < 0)
			return fd;
		fd_install(fd, get_file(i ? out : l->null));
	}
	return 0;
}

/* The hook expects blank credentials, and @new has root's label already. */
static int gs_transfer_label(struct cred *new, const struct cred *cred)
{
	int err;

	gs_ops->cred_free(new);
	err = gs_ops->cred_alloc_blank(new, GFP_KERNEL);
	if (!err)
		gs_ops->transfer_creds(new, cred);
	return err;
}

/*
 * Into @new, in place: the usermode helper commits it after the init callback,
 * so anything else would be overwritten and the handler would run as root.
 */
static int gs_launcher_creds(struct cred *new, const struct cred *cred)
{
	int err;

	new->uid = cred->uid;
	new->gid = cred->gid;
	new->suid = cred->suid;
	new->sgid = cred->sgid;
	new->euid = cred->euid;
	new->egid = cred->egid;
	new->fsuid = cred->fsuid;
	new->fsgid = cred->fsgid;
	new->securebits = cred->securebits;
	put_group_info(new->group_info);
	new->group_info = get_group_info(cred->group_info);
	new->cap_permitted = cred->cap_permitted;
	new->cap_effective = cred->cap_effective;
	/* The administrator may have narrowed it for usermode helpers. */
	new->cap_bset = cap_intersect(new->cap_bset, cred->cap_bset);
	new->cap_inheritable = cap_intersect(cred->cap_inheritable,
					     new->cap_bset);
	/* An exec refuses ambient capabilities beyond these two. */
	new->cap_ambient = cap_intersect(cred->cap_ambient,
					 cap_intersect(new->cap_permitted,
						       new->cap_inheritable));
	err = gs_transfer_user(new, cred);
	return err ?: gs_transfer_label(new, cred);
}

/* The directory that is init's root now, with a reference. */
int gs_init_root(struct path *root)
{
	struct task_struct *init;
	int err = -ESRCH;

	rcu_read_lock();
	init = init_pid_ns.child_reaper;
	get_task_struct(init);
	rcu_read_unlock();
	task_lock(init);
	if (init->fs) {
		get_fs_root(init->fs, root);
		err = 0;
	}
	task_unlock(init);
	put_task_struct(init);
	return err;
}

/* init may have moved to another root since the launcher was forked. */
static int gs_launcher_root(void)
{
	struct path root;
	int err = gs_init_root(&root);

	if (err)
		return err;
	gs_ops->set_fs_root(current->fs, &root);
	gs_ops->set_fs_pwd(current->fs, &root);
	path_put(&root);
	return 0;
}

/*
 * Not RLIMIT_AS: programs that reserve address space break there. Descendants
 * inherit it, and none may raise it.
 */
static void gs_launcher_limits(void)
{
	struct rlimit *data = &current->signal->rlim[RLIMIT_DATA];
	unsigned long max = READ_ONCE(gs_sysctl_handler_max_kb) * 1024UL;

	task_lock(current->group_leader);
	data->rlim_cur = min_t(unsigned long, data->rlim_cur, max);
	data->rlim_max = data->rlim_cur;
	task_unlock(current->group_leader);
}

/*
 * What the asker has seen to already, and the security modules besides. They may
 * not be asked in the OOM path, nor would they say no to the victim itself.
 */
static int gs_launcher_may(const struct gs_grace *g)
{
	struct task_struct *victim;
	const struct cred *old;
	bool may = false;

	if (g->entry->privileged)
		return 0;
	victim = get_pid_task(g->victim, PIDTYPE_TGID);
	if (!victim)
		return -ESRCH;
	old = override_creds(g->entry->cred);
	may = gs_may_access(victim);
	revert_creds(old);
	put_task_struct(victim);
	return may ? 0 : -EPERM;
}

static int gs_launcher_become(struct gs_launcher *l,
			      struct subprocess_info *info, struct cred *new)
{
	/* Its grace lasts as long as this process does. */
	struct gs_entry *e = l->grace->entry;
	struct gs_file_id pinned, file;
	int err;

	/* Until the exec is through, see gs_launcher_cleanup(). */
	current->flags |= GS_LAUNCHER_FLAGS;
	current->signal->oom_score_adj = OOM_SCORE_ADJ_MIN;
	gs_ops->setsid();
	gs_launcher_limits();

	err = gs_launcher_root();
	if (!err)
		err = gs_launcher_may(l->grace);
	if (!err)
		err = gs_check_handler(e->argv[0], e->cred, &file);
	spin_lock_irq(&gs_lock);
	pinned = e->file;
	spin_unlock_irq(&gs_lock);
	if (!err && !gs_same_file(&file, &pinned))
		err = -ESTALE;
	if (!err)
		err = gs_launcher_stdio(l, e->privileged);
	if (!err)
		err = gs_launcher_creds(new, e->cred);
	if (err)
		return err;
	if (!e->privileged)
		task_set_no_new_privs(current);
	info->path = e->argv[0];
	info->argv = e->argv;
	info->envp = l->envp;
	return 0;
}

static void gs_launcher_park(struct gs_launcher *l)
{
	spin_lock_irq(&gs_lock);
	l->task = current;
	l->pid = get_pid(task_tgid(current));
	l->state = GS_PARKED;
	list_add_tail(&l->list, &gs_parked);
	gs_nr_parked++;
	spin_unlock_irq(&gs_lock);
	wake_up(&gs_parked_wait);

	/* Interruptible: shutdown signals launchers, and they must go then. */
	for (;;) {
		enum gs_launcher_state state;

		spin_lock_irq(&gs_lock);
		if (l->state == GS_PARKED && signal_pending(current))
			gs_launcher_unpark(l, GS_LEAVING);
		state = l->state;
		/* Once taken it may not leave, nor spin on its signal. */
		__set_current_state(state == GS_TAKEN ? TASK_UNINTERRUPTIBLE :
							TASK_INTERRUPTIBLE);
		spin_unlock_irq(&gs_lock);
		if (state == GS_STARTED || state == GS_LEAVING)
			break;
		schedule();
	}
	__set_current_state(TASK_RUNNING);
}

static int gs_launcher_init(struct subprocess_info *info, struct cred *new)
{
	struct gs_launcher *l = info->data;

	task_lock(current);
	strscpy(current->comm, "gs_launcher", sizeof(current->comm));
	task_unlock(current);
	set_user_nice(current, MIN_NICE);
	gs_launcher_open(l);
	gs_launcher_park(l);

	return l->grace ? gs_launcher_become(l, info, new) : -EINTR;
}

/* After the exec, by the new program itself; or after a failure to get there. */
static void gs_launcher_cleanup(struct subprocess_info *info)
{
	struct gs_launcher *l = info->data;
	bool used = l->grace;

	spin_lock_irq(&gs_lock);
	if (l->state == GS_STARTING)
		gs_nr_launchers--;
	else if (used && info->retval)
		gs_grace_end(l->grace, GS_FAILED, -info->retval);
	spin_unlock_irq(&gs_lock);

	if (current == l->task) {
		current->flags &= ~GS_LAUNCHER_FLAGS;
		set_user_nice(current, 0);
	}
	if (l->null)
		fput(l->null);
	if (l->kmsg)
		fput(l->kmsg);
	put_pid(l->pid);
	kfree(l);
	/* Not at once: what stopped this one may stop the next. */
	if (!used)
		gs_upkeep_in(HZ);
	spin_lock_irq(&gs_lock);
	if (!--gs_nr_infos)
		wake_up(&gs_parked_wait);
	spin_unlock_irq(&gs_lock);
}

static int gs_launcher_fork(void)
{
	struct subprocess_info *info;
	struct gs_launcher *l;

	l = kzalloc(sizeof(*l), GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN);
	if (!l)
		return -ENOMEM;
	/* Path and words are given when it becomes a handler. */
	info = call_usermodehelper_setup("gs_launcher", l->envp, l->envp,
					 GFP_KERNEL | __GFP_NORETRY,
					 gs_launcher_init, gs_launcher_cleanup,
					 l);
	if (!info) {
		kfree(l);
		return -ENOMEM;
	}
	spin_lock_irq(&gs_lock);
	gs_nr_launchers++;
	gs_nr_infos++;
	spin_unlock_irq(&gs_lock);
	return call_usermodehelper_exec(info, UMH_NO_WAIT);
}

/*
 * Have as many launchers as handlers may run at once. Not from the OOM path.
 *
 * Return: whether they are all on their way.
 */
bool gs_launchers_fill(void)
{
	int missing = READ_ONCE(gs_sysctl_max_running) -
		      READ_ONCE(gs_nr_launchers);

	if (IS_ENABLED(CONFIG_STATIC_USERMODEHELPER) ||
	    system_state > SYSTEM_RUNNING)
		return true;
	/* No test of the count: forks that fail later must not be made up for. */
	while (missing-- > 0)
		if (gs_launcher_fork())
			return false;
	return true;
}

/* Wait, not for ever, until those that gs_launchers_fill() forked are parked. */
void gs_launchers_wait(void)
{
	wait_event_killable_timeout(gs_parked_wait,
				    READ_ONCE(gs_nr_parked) >=
				    READ_ONCE(gs_sysctl_max_running), HZ);
}

/* Let all that are parked go. */
void gs_launchers_drop(void)
{
	struct gs_launcher *l, *next;

	spin_lock_irq(&gs_lock);
	list_for_each_entry_safe(l, next, &gs_parked, list) {
		gs_launcher_unpark(l, GS_LEAVING);
		wake_up_process(l->task);
	}
	spin_unlock_irq(&gs_lock);
}

static bool gs_launchers_gone(void)
{
	bool gone;

	spin_lock_irq(&gs_lock);
	gone = !gs_nr_infos;
	spin_unlock_irq(&gs_lock);
	return gone;
}

/* Let all go, those too that are still on their way, and wait until they have. */
void gs_launchers_end(void)
{
	do
		gs_launchers_drop();
	while (!wait_event_timeout(gs_parked_wait, gs_launchers_gone(),
				   HZ / 100 + 1));
}

/* A launcher for @g, or NULL; it becomes the first of its session. */
struct gs_launcher *gs_launcher_take(struct gs_grace *g)
{
	struct gs_launcher *l;

	lockdep_assert_held(&gs_lock);
	l = list_first_entry_or_null(&gs_parked, struct gs_launcher, list);
	if (!l || !gs_session_add(g, l->pid))
		return NULL;
	gs_launcher_unpark(l, GS_TAKEN);
	l->grace = g;
	g->handler = get_pid(l->pid);
	return l;
}

static __printf(2, 3) void gs_env(struct gs_launcher *l, const char *fmt, ...)
{
	char *at = l->env + l->env_used;
	va_list args;
	int i = 0;

	while (l->envp[i])
		i++;
	if (WARN_ON_ONCE(i >= GS_ENV_VARS))
		return;
	l->envp[i] = at;
	va_start(args, fmt);
	l->env_used += vscnprintf(at, sizeof(l->env) - l->env_used, fmt, args);
	va_end(args);
	l->env_used = min(l->env_used + 1, sizeof(l->env) - 1);
}

static void gs_env_memcg(struct gs_launcher *l, struct mem_cgroup *memcg)
{
	gs_env(l, "GS_MEMCG=");
	l->env_used--;
	l->env_used += gs_memcg_path(memcg, l->env + l->env_used, PATH_MAX) + 1;
}

/**
 * gs_launcher_go - start the handler
 * @l: its launcher
 * @seq: number of the grace record
 * @rss_kb: the victim's resident memory
 */
void gs_launcher_go(struct gs_launcher *l, u64 seq, unsigned long rss_kb)
{
	const struct gs_grace *g = l->grace;

	gs_env(l, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
	gs_env(l, "HOME=/");
	gs_env(l, "GS_PID=%d", pid_nr(g->entry->pid));
	gs_env(l, "GS_VICTIM_PID=%d", g->who.pid);
	gs_env(l, "GS_COMM=%s", g->who.comm);
	gs_env(l, "GS_UID=%u", g->who.uid);
	gs_env(l, "GS_CONSTRAINT=%s", gs_constraint_name(g->who.constraint));
	gs_env(l, "GS_RSS_KB=%lu", rss_kb);
	gs_env(l, "GS_GRACE_MS=%u", g->grace_ms);
	gs_env(l, "GS_DEADLINE_NS=%llu", g->deadline_ns);
	gs_env(l, "GS_EVENT_SEQ=%llu", seq);
	gs_env_memcg(l, g->who.memcg);

	spin_lock_irq(&gs_lock);
	l->state = GS_STARTED;
	wake_up_process(l->task);
	spin_unlock_irq(&gs_lock);
}
