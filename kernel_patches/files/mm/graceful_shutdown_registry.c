// SPDX-License-Identifier: GPL-2.0
/*
 * /proc/graceful_shutdown: which process has which handler.
 *
 * A write is parsed and all that it needs is allocated first. Then it is
 * applied under gs_registry_mutex, command by command, and taken back in reverse
 * order if one fails. Nothing is allocated while the mutex is held, so an OOM
 * that hits a writer cannot make the others wait.
 */

#include <linux/capability.h>
#include <linux/hash.h>
#include <linux/init.h>
#include <linux/init_task.h>
#include <linux/kernel.h>
#include <linux/nsproxy.h>
#include <linux/pid_namespace.h>
#include <linux/rculist.h>
#include <linux/sched/task.h>
#include <linux/seq_file.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/user_namespace.h>
#include <linux/fs_struct.h>

#include "graceful_shutdown.h"
#include "graceful_shutdown_compat.h"
#include "graceful_shutdown_grammar.h"

#define GS_WRITE_MAX	SZ_1M
#define GS_HASH_BITS	12

/* How far up scope=tree reaches; interrupts are off meanwhile. */
#define GS_GENERATIONS	1024

/* For everybody: who may do what is decided by credentials, and EPERM says so. */
#define GS_REGISTRY_MODE	0666

static DEFINE_MUTEX(gs_registry_mutex);

/* Guarded by gs_lock. */
static struct hlist_head gs_hash[1 << GS_HASH_BITS];
static struct rb_root gs_entries = RB_ROOT;	/* by serial */
static unsigned int gs_nr_entries;
static u64 gs_last_serial;

/**
 * struct gs_command - one command of a write
 * @pid: the thread group to remove
 * @new: the entry to put in, NULL for a removal
 * @old: the entry that was taken out, with the reference that the registry had
 * @refreshed: @new is the same as one there is, which has taken its file; it has the
 *	former one
 */
struct gs_command {
	struct pid *pid;
	struct gs_entry *new;
	struct gs_entry *old;
	bool refreshed;
};

/**
 * struct gs_batch - one write
 * @cred: the opener's credentials
 * @privileged: they have CAP_SYS_ADMIN
 * @checked: the last entry whose handler was looked at; many have the same
 * @commands: what it asks for
 * @nr: number of @commands
 */
struct gs_batch {
	const struct cred *cred;
	bool privileged;
	const struct gs_entry *checked;
	struct gs_command *commands;
	unsigned int nr;
};

/**
 * struct gs_open - one open registry file
 * @lock: for the two below, held while writing
 * @written: something was written
 * @unterminated: and its last line had no newline
 * @cur: the entry that is being shown, with a reference
 * @next_serial: entries from this serial on are still to be shown
 */
struct gs_open {
	struct mutex lock; /* one write at a time */
	bool written;
	bool unterminated;
	struct gs_entry *cur;
	u64 next_serial;
};

static struct hlist_head *gs_bucket(struct pid *pid)
{
	return &gs_hash[hash_ptr(pid, GS_HASH_BITS)];
}

/* Called with gs_lock held, or under RCU. */
struct gs_entry *gs_entry_find(struct pid *pid)
{
	struct gs_entry *e;

	hlist_for_each_entry_rcu(e, gs_bucket(pid), hash,
				 lockdep_is_held(&gs_lock))
		if (e->pid == pid)
			return e;
	return NULL;
}

/*
 * The entry that covers @task: its own, or that of the nearest ancestor which
 * covers its descendants; or NULL. Called with gs_lock held.
 */
struct gs_entry *gs_entry_covering(struct task_struct *task)
{
	struct gs_entry *e = gs_entry_find(task_tgid(task));
	unsigned int generations = GS_GENERATIONS;

	lockdep_assert_held(&gs_lock);
	if (e)
		return e;
	rcu_read_lock();
	/* Of one that was released in the meantime the parent means nothing. */
	while (!e && generations-- && pid_alive(task) &&
	       !is_global_init(task) && task_tgid_nr(task)) {
		task = rcu_dereference(task->real_parent);
		e = gs_entry_find(task_tgid(task));
		if (e && !e->tree)
			e = NULL;
	}
	rcu_read_unlock();
	return e;
}

/* The handler's path, or a dash where there is a signal alone. */
const char *gs_entry_handler(const struct gs_entry *e)
{
	return e->argc ? e->argv[0] : "-";
}

unsigned int gs_registry_count(void)
{
	return READ_ONCE(gs_nr_entries);
}

void gs_entry_get(struct gs_entry *e)
{
	refcount_inc(&e->refs);
}

static void gs_entry_free(struct rcu_head *rcu)
{
	struct gs_entry *e = container_of(rcu, struct gs_entry, rcu);

	put_cred(e->cred);
	put_pid(e->pid);
	kfree(e);
}

/* Callable from any context. */
void gs_entry_put(struct gs_entry *e)
{
	if (e && refcount_dec_and_test(&e->refs))
		call_rcu(&e->rcu, gs_entry_free);
}

static bool gs_entry_linked(const struct gs_entry *e)
{
	lockdep_assert_held(&gs_lock);
	return !hlist_unhashed(&e->hash);
}

static void gs_entry_link(struct gs_entry *e)
{
	struct rb_node **link = &gs_entries.rb_node, *parent = NULL;

	lockdep_assert_held(&gs_lock);
	while (*link) {
		parent = *link;
		if (e->serial < rb_entry(parent, struct gs_entry, node)->serial)
			link = &parent->rb_left;
		else
			link = &parent->rb_right;
	}
	rb_link_node(&e->node, parent, link);
	rb_insert_color(&e->node, &gs_entries);
	hlist_add_head_rcu(&e->hash, gs_bucket(e->pid));
	gs_nr_entries++;
}

static void gs_entry_unlink(struct gs_entry *e)
{
	lockdep_assert_held(&gs_lock);
	rb_erase(&e->node, &gs_entries);
	hlist_del_init_rcu(&e->hash);
	gs_nr_entries--;
}

/*
 * Put @new in the place of @old, which is of the same process. A reader under
 * RCU finds one of them at any time.
 */
static void gs_entry_replace(struct gs_entry *old, struct gs_entry *new)
{
	lockdep_assert_held(&gs_lock);
	hlist_add_head_rcu(&new->hash, gs_bucket(new->pid));
	hlist_del_init_rcu(&old->hash);
	rb_replace_node(&old->node, &new->node, &gs_entries);
}

/* The last thread of @pid exits. */
void gs_registry_exited(struct pid *pid)
{
	struct gs_entry *e;

	lockdep_assert_held(&gs_lock);
	e = gs_entry_find(pid);
	if (!e)
		return;
	gs_entry_unlink(e);
	gs_entry_put(e);
}

/* Until its last thread has begun to exit. */
static bool gs_pid_lives(struct pid *pid)
{
	struct task_struct *task;
	bool lives;

	rcu_read_lock();
	task = pid_task(pid, PIDTYPE_TGID);
	lives = task && atomic_read(&task->signal->live);
	rcu_read_unlock();
	return lives;
}

static bool gs_entry_equal(const struct gs_entry *a, const struct gs_entry *b)
{
	return a->grace_ms == b->grace_ms && a->signal == b->signal &&
	       a->tree == b->tree && a->argc == b->argc &&
	       a->words_len == b->words_len &&
	       (!a->argc || !memcmp(a->argv[0], b->argv[0], a->words_len));
}

/* The thread group of process @nr, with a reference, or NULL. */
static struct pid *gs_find_group(int nr)
{
	struct task_struct *task;
	struct pid *pid = NULL;

	rcu_read_lock();
	task = pid_task(find_vpid(nr), PIDTYPE_PID);
	if (task)
		pid = get_pid(task_tgid(task));
	rcu_read_unlock();
	return pid;
}

/*
 * May the writer register this process? Asked with the opener's credentials, since
 * current may be somebody else to whom the file was passed.
 */
static bool gs_may_register(const struct gs_batch *batch,
			    struct task_struct *task,
			    const struct gs_mm_facts *facts)
{
	const struct cred *old;
	bool may;

	if (batch->privileged)
		return true;
	old = override_creds(batch->cred);
	may = gs_may_access(task);
	revert_creds(old);
	return may && gs_is_owner(batch->cred, task, facts);
}

/* As gs_find_group(), of a process that the OOM killer might kill. */
static struct pid *gs_find_victim(const struct gs_batch *batch, int nr)
{
	struct pid *pid = gs_find_group(nr);
	struct gs_mm_facts facts;
	struct task_struct *task;
	int err = -ESRCH;

	task = pid ? get_pid_task(pid, PIDTYPE_TGID) : NULL;
	if (task) {
		if (!is_global_init(task) && !(task->flags & PF_KTHREAD) &&
		    gs_mm_look(task, NULL, &facts))
			err = gs_may_register(batch, task, &facts) ? 0 : -EPERM;
		put_task_struct(task);
	}
	if (!err)
		return pid;
	put_pid(pid);
	return ERR_PTR(err);
}

static struct gs_entry *gs_entry_alloc(const struct gs_line *line)
{
	size_t vector = (line->argc + 1) * sizeof(char *);
	struct gs_entry *e;
	char *word;
	int i;

	e = kzalloc(sizeof(*e) + vector + line->words_len, GFP_KERNEL_ACCOUNT);
	if (!e)
		return NULL;
	refcount_set(&e->refs, 1);
	e->signal = line->signal;
	e->tree = line->scope == GS_SCOPE_TREE;
	e->argc = line->argc;
	e->words_len = line->words_len;
	word = (char *)e->argv + vector;
	memcpy(word, line->words, line->words_len);
	for (i = 0; i < line->argc; i++) {
		e->argv[i] = word;
		word += strlen(word) + 1;
	}
	return e;
}

static int gs_batch_check(const struct gs_batch *batch, const char *path,
			  struct gs_file_id *file)
{
	if (!batch->checked || strcmp(batch->checked->argv[0], path))
		return gs_check_handler(path, batch->cred, file);
	*file = batch->checked->file;
	return 0;
}

static struct gs_entry *gs_entry_create(const struct gs_batch *batch,
					const struct gs_line *line)
{
	struct gs_file_id file = {};
	struct gs_entry *e;
	struct pid *pid;
	int err = 0;

	pid = gs_find_victim(batch, line->pid);
	if (IS_ERR(pid))
		return ERR_CAST(pid);
	if (line->argc)
		err = gs_batch_check(batch, line->words, &file);
	if (err)
		goto out;
	err = -ENOMEM;
	e = gs_entry_alloc(line);
	if (!e)
		goto out;
	e->pid = pid;
	e->cred = get_cred(batch->cred);
	e->privileged = batch->privileged;
	e->file = file;
	if (line->grace_ms != READ_ONCE(gs_sysctl_grace_ms))
		e->grace_ms = line->grace_ms;
	return e;
out:
	put_pid(pid);
	return ERR_PTR(err);
}

static int gs_batch_add(struct gs_batch *batch, char *text, size_t len)
{
	struct gs_command *c = &batch->commands[batch->nr];
	struct gs_entry *e;
	struct gs_line line;
	int err;

	err = gs_line_parse(text, len, READ_ONCE(gs_sysctl_max_grace_ms),
			    &line);
	if (err || line.kind == GS_LINE_EMPTY)
		return err;
	if (line.kind == GS_LINE_REGISTER) {
		e = gs_entry_create(batch, &line);
		if (IS_ERR(e))
			return PTR_ERR(e);
		c->new = e;
		if (e->argc)
			batch->checked = e;
	} else {
		c->pid = gs_find_group(line.pid);
		if (!c->pid)
			return -ESRCH;
	}
	batch->nr++;
	return 0;
}

static int gs_batch_parse(struct gs_batch *batch, char *text, size_t len)
{
	char *end = text + len, *p, *newline;
	unsigned int lines = 1;
	int err;

	for (p = text; (p = memchr(p, '\n', end - p)); p++)
		lines++;
	batch->commands = kvcalloc(lines, sizeof(*batch->commands), GFP_KERNEL);
	if (!batch->commands)
		return -ENOMEM;

	for (p = text; p < end; p = newline + 1) {
		newline = memchr(p, '\n', end - p) ?: end;
		err = gs_batch_add(batch, p, newline - p);
		if (err)
			return err;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

static void gs_batch_free(struct gs_batch *batch)
{
	unsigned int i;

	for (i = 0; i < batch->nr; i++) {
		put_pid(batch->commands[i].pid);
		gs_entry_put(batch->commands[i].new);
		gs_entry_put(batch->commands[i].old);
	}
	kvfree(batch->commands);
}

/* What somebody else has registered is not a user's to change. */
static bool gs_may_change(const struct gs_batch *batch,
			  const struct gs_entry *old)
{
	return batch->privileged ||
	       (!old->privileged && uid_eq(old->cred->euid, batch->cred->euid));
}

static int gs_apply_register(const struct gs_batch *batch,
			     struct gs_command *c)
{
	struct gs_entry *new = c->new;
	struct gs_entry *old = gs_entry_find(new->pid);

	if (!gs_pid_lives(new->pid))
		return -ESRCH;
	if (old && !gs_may_change(batch, old))
		return -EPERM;
	/* Restoring a saved registry raises nobody: see the credentials. */
	if (old && gs_entry_equal(old, new)) {
		/* But the file under that name may be a new one. */
		c->refreshed = uid_eq(old->cred->euid, new->cred->euid);
		if (c->refreshed)
			swap(old->file, new->file);
		return 0;
	}
	if (!old && gs_nr_entries >= READ_ONCE(gs_sysctl_max_entries))
		return -ENOSPC;
	gs_entry_get(new);
	if (!old) {
		new->serial = ++gs_last_serial;
		gs_entry_link(new);
		return 0;
	}
	new->serial = old->serial;
	gs_entry_replace(old, new);
	c->old = old;
	return 0;
}

static int gs_apply_remove(const struct gs_batch *batch, struct gs_command *c)
{
	struct gs_entry *old = gs_entry_find(c->pid);

	if (!old)
		return -ESRCH;
	if (!gs_may_change(batch, old))
		return -EPERM;
	gs_entry_unlink(old);
	c->old = old;
	return 0;
}

static void gs_undo(struct gs_command *c)
{
	struct gs_entry *new = c->new && gs_entry_linked(c->new) ? c->new : NULL;
	struct gs_entry *old = c->old;

	if (c->refreshed) {
		old = gs_entry_find(c->new->pid);
		if (old)
			swap(old->file, c->new->file);
		return;
	}
	if (new && old)
		gs_entry_replace(new, old);
	else if (new)
		gs_entry_unlink(new);
	else if (old && !c->new && gs_pid_lives(old->pid))
		gs_entry_link(old);
	else
		return;
	gs_entry_put(new);
	c->old = NULL;
}

static int gs_batch_apply(struct gs_batch *batch)
{
	struct gs_command *c = batch->commands;
	unsigned int i;
	int err = 0;

	if (mutex_lock_killable(&gs_registry_mutex))
		return -EINTR;
	for (i = 0; i < batch->nr && !err; i++, c++) {
		spin_lock_irq(&gs_lock);
		err = c->new ? gs_apply_register(batch, c) :
			       gs_apply_remove(batch, c);
		spin_unlock_irq(&gs_lock);
		cond_resched();
	}
	while (err && i--) {
		spin_lock_irq(&gs_lock);
		gs_undo(--c);
		spin_unlock_irq(&gs_lock);
		cond_resched();
	}
	mutex_unlock(&gs_registry_mutex);
	return err;
}

static int gs_batch_run(struct gs_batch *batch, char *text, size_t len)
{
	int err;

	err = gs_batch_parse(batch, text, len);
	if (!err) {
		/* The probe that drops dead entries must be there first. */
		err = gs_activate();
		if (!err) {
			err = gs_batch_apply(batch);
			gs_deactivate();
		}
	}
	gs_batch_free(batch);
	return err;
}

/* A path means the same file to init only where these are the same. */
static bool gs_shares_init_view(void)
{
	struct path root, init_root;
	bool same;

	if (current->nsproxy->mnt_ns != init_task.nsproxy->mnt_ns ||
	    task_active_pid_ns(current) != &init_pid_ns ||
	    gs_init_root(&init_root))
		return false;
	get_fs_root(current->fs, &root);
	same = path_equal(&root, &init_root);
	path_put(&root);
	path_put(&init_root);
	return same;
}

static bool gs_is_privileged(const struct file *file)
{
	return file_ns_capable(file, &init_user_ns, CAP_SYS_ADMIN);
}

static int gs_may_write(struct file *file)
{
	if (file->f_cred->user_ns != &init_user_ns ||
	    current_user_ns() != &init_user_ns)
		return -EPERM;
	/* Its handler would run without the filter that binds a user's process. */
	if (!gs_is_privileged(file) &&
	    (!READ_ONCE(gs_sysctl_unprivileged) || gs_is_filtered(current)))
		return -EPERM;
	/* Handlers would silently be replaced by that one program. */
	if (IS_ENABLED(CONFIG_STATIC_USERMODEHELPER))
		return -EOPNOTSUPP;
	return gs_shares_init_view() ? 0 : -EOPNOTSUPP;
}

/*
 * How much of @len bytes is whole lines. Only the first write on an open file
 * may leave its last newline out, so that a tool which splits a line cannot
 * register half a path.
 */
static ssize_t gs_whole_lines(struct gs_open *o, const char *text, size_t len,
			      bool more)
{
	size_t n = len;

	if (o->unterminated)
		return -EINVAL;
	if (text[len - 1] == '\n')
		return len;
	if (!more)
		return o->written ? -EINVAL : len;
	while (n && text[n - 1] != '\n')
		n--;
	return n ?: -E2BIG;
}

static ssize_t gs_registry_write_locked(struct file *file, struct gs_open *o,
					char *text, size_t len, bool more)
{
	struct gs_batch batch = {
		.cred = file->f_cred,
		.privileged = gs_is_privileged(file),
	};
	bool unterminated;
	ssize_t n;
	int err;

	n = gs_whole_lines(o, text, len, more);
	if (n < 0)
		return n;
	unterminated = text[n - 1] != '\n';
	err = gs_batch_run(&batch, text, n);
	if (err)
		return err;
	o->written = true;
	o->unterminated = unterminated;
	return n;
}

static ssize_t gs_registry_write(struct file *file, const char __user *buf,
				 size_t count, loff_t *ppos)
{
	struct gs_open *o = ((struct seq_file *)file->private_data)->private;
	size_t len = min_t(size_t, count, GS_WRITE_MAX);
	char *text;
	ssize_t n;

	n = gs_may_write(file);
	if (n || !count)
		return n;
	/* One byte more: the parser ends the last word there. */
	text = kvmalloc(len + 1, GFP_KERNEL);
	if (!text)
		return -ENOMEM;
	n = -EFAULT;
	if (copy_from_user(text, buf, len))
		goto out;
	n = -EINTR;
	if (mutex_lock_killable(&o->lock))
		goto out;
	n = gs_registry_write_locked(file, o, text, len, len < count);
	mutex_unlock(&o->lock);
out:
	kvfree(text);
	return n;
}

/* The first entry with this serial or a later one. */
static struct gs_entry *gs_entry_from(u64 serial)
{
	struct rb_node *n = gs_entries.rb_node;
	struct gs_entry *e, *found = NULL;

	lockdep_assert_held(&gs_lock);
	while (n) {
		e = rb_entry(n, struct gs_entry, node);
		if (e->serial >= serial)
			found = e;
		n = e->serial >= serial ? n->rb_left : n->rb_right;
	}
	return found;
}

static void *gs_seq_start(struct seq_file *m, loff_t *pos)
{
	struct gs_open *o = m->private;

	if (!*pos)
		o->next_serial = 0;
	spin_lock_irq(&gs_lock);
	o->cur = gs_entry_from(o->next_serial);
	if (o->cur)
		gs_entry_get(o->cur);
	spin_unlock_irq(&gs_lock);
	return o->cur;
}

static void gs_seq_stop(struct seq_file *m, void *v)
{
	struct gs_open *o = m->private;

	gs_entry_put(o->cur);
	o->cur = NULL;
}

static void *gs_seq_next(struct seq_file *m, void *v, loff_t *pos)
{
	struct gs_open *o = m->private;

	o->next_serial = o->cur->serial + 1;
	++*pos;
	gs_seq_stop(m, v);
	return gs_seq_start(m, pos);
}

static int gs_seq_show(struct seq_file *m, void *v)
{
	const struct cred *reader = m->file->f_cred;
	const struct gs_entry *e = v;
	bool own = uid_eq(e->cred->euid, reader->euid);
	int i;

	if (!own && !gs_is_privileged(m->file))
		return SEQ_SKIP;
	if (!own)
		seq_printf(m, "# uid=%u ",
			   from_kuid_munged(&init_user_ns, e->cred->euid));
	seq_printf(m, "%d", pid_nr(e->pid));
	if (e->grace_ms)
		seq_printf(m, " grace_ms=%u", e->grace_ms);
	if (e->signal)
		seq_printf(m, " signal=%u", e->signal);
	if (e->tree)
		seq_puts(m, " scope=tree");
	for (i = 0; i < e->argc; i++) {
		seq_putc(m, ' ');
		seq_escape(m, e->argv[i], " \t\n\\");
	}
	seq_putc(m, '\n');
	return 0;
}

static const struct seq_operations gs_seq_ops = {
	.start	= gs_seq_start,
	.next	= gs_seq_next,
	.stop	= gs_seq_stop,
	.show	= gs_seq_show,
};

static int gs_registry_open(struct inode *inode, struct file *file)
{
	struct gs_open *o;

	if (file->f_cred->user_ns != &init_user_ns)
		return -EPERM;
	o = __seq_open_private(file, &gs_seq_ops, sizeof(*o));
	if (!o)
		return -ENOMEM;
	mutex_init(&o->lock);
	return 0;
}

static const struct proc_ops gs_registry_ops = {
	.proc_open	= gs_registry_open,
	.proc_read	= seq_read,
	.proc_write	= gs_registry_write,
	.proc_lseek	= seq_lseek,
	.proc_release	= seq_release_private,
};

static struct proc_dir_entry *gs_registry_file;

int gs_registry_init(void)
{
	gs_registry_file = proc_create("graceful_shutdown", GS_REGISTRY_MODE,
				       NULL, &gs_registry_ops);
	return gs_registry_file ? 0 : -ENOMEM;
}

void gs_registry_exit(void)
{
	struct gs_entry *e;

	proc_remove(gs_registry_file);
	spin_lock_irq(&gs_lock);
	while ((e = gs_entry_from(0))) {
		gs_entry_unlink(e);
		gs_entry_put(e);
	}
	spin_unlock_irq(&gs_lock);
}
