// SPDX-License-Identifier: GPL-2.0
/*
 * /proc/graceful_shutdown_events: a ring of text records, kept for readers that
 * come later. A record is written where the event happens, often in the middle
 * of an OOM and with interrupts off, so nothing is allocated then.
 */

#include <linux/bits.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>
#include <linux/user_namespace.h>
#include <linux/vmalloc.h>

#include "graceful_shutdown.h"
#include "graceful_shutdown_compat.h"
#include "graceful_shutdown_grammar.h"

#define CREATE_TRACE_POINTS
#include <trace/events/graceful_shutdown.h>

#define GS_RING_BYTES	BIT(CONFIG_GRACEFUL_SHUTDOWN_RING_SHIFT)
#define GS_RING_RECORDS	4096U

/* A path of PATH_MAX bytes takes four times that when all of it is escaped. */
#define GS_RECORD_MAX	(8 * PATH_MAX + 2048)

/**
 * struct gs_ring - the records kept
 * @lock: guards all of it
 * @bytes: the records' text, one behind the other, wrapping around
 * @at: where record number n begins, at [n % GS_RING_RECORDS]
 * @len: its length there
 * @oldest: number of the oldest record kept
 * @next: number of the record to come; the first is 1
 * @end: where it will begin
 * @used: bytes in use
 * @path: scratch for a memory cgroup's path
 * @record: scratch for the record being written
 * @counts: events since boot, by kind
 */
static struct gs_ring {
	spinlock_t lock; /* all of it */
	char *bytes;
	u32 at[GS_RING_RECORDS];
	u32 len[GS_RING_RECORDS];
	u64 oldest;
	u64 next;
	size_t end;
	size_t used;
	char path[PATH_MAX];
	char record[GS_RECORD_MAX];
	u64 counts[GS_NR_EVENTS];
} gs_ring = {
	.lock = __SPIN_LOCK_UNLOCKED(gs_ring.lock),
	.oldest = 1,
	.next = 1,
};

static DECLARE_WAIT_QUEUE_HEAD(gs_ring_wait);

/**
 * struct gs_reader - one open file
 * @lock: one read at a time
 * @next: number of the record to read next
 * @len: length of the line in @line
 * @done: how much of it has been read
 * @line: the line being read
 */
struct gs_reader {
	struct mutex lock; /* one read at a time */
	u64 next;
	size_t len;
	size_t done;
	char line[GS_RECORD_MAX];
};

static const char *const gs_event_names[GS_NR_EVENTS] = {
	[GS_GRACE] = "grace",
	[GS_DONE] = "done",
	[GS_TIMEOUT] = "timeout",
	[GS_FAILED] = "failed",
	[GS_AVERTED] = "averted",
	[GS_GONE] = "gone",
	[GS_KILL] = "kill",
};

static const char *const gs_constraint_names[] = {
	[CONSTRAINT_NONE] = "none",
	[CONSTRAINT_CPUSET] = "cpuset",
	[CONSTRAINT_MEMORY_POLICY] = "mempolicy",
	[CONSTRAINT_MEMCG] = "memcg",
};

const char *gs_event_name(enum gs_event event)
{
	return gs_event_names[event];
}

const char *gs_constraint_name(enum oom_constraint constraint)
{
	return gs_constraint_names[constraint];
}

u64 gs_event_count(enum gs_event event)
{
	return READ_ONCE(gs_ring.counts[event]);
}

/**
 * gs_memcg_path - path of a memory cgroup, "-" if there is none
 * @memcg: the cgroup, or NULL
 * @buf: where to
 * @size: room there; a longer path is cut
 *
 * Return: the length.
 */
size_t gs_memcg_path(struct mem_cgroup *memcg, char *buf, size_t size)
{
	if (!memcg || cgroup_path(memcg->css.cgroup, buf, size) < 0)
		strscpy(buf, "-", size);
	return strlen(buf);
}

static void gs_ring_drop_oldest(void)
{
	gs_ring.used -= gs_ring.len[gs_ring.oldest % GS_RING_RECORDS];
	gs_ring.oldest++;
}

static void gs_ring_put(const char *text, size_t len)
{
	u32 slot = gs_ring.next % GS_RING_RECORDS;
	size_t head;

	lockdep_assert_held(&gs_ring.lock);

	while (gs_ring.oldest < gs_ring.next &&
	       (gs_ring.used + len > GS_RING_BYTES ||
		gs_ring.next - gs_ring.oldest >= GS_RING_RECORDS))
		gs_ring_drop_oldest();

	head = min_t(size_t, len, GS_RING_BYTES - gs_ring.end);
	memcpy(gs_ring.bytes + gs_ring.end, text, head);
	memcpy(gs_ring.bytes, text + head, len - head);
	gs_ring.at[slot] = gs_ring.end;
	gs_ring.len[slot] = len;
	gs_ring.end = (gs_ring.end + len) % GS_RING_BYTES;
	gs_ring.used += len;
	gs_ring.next++;
}

/**
 * gs_event_emit - write a record
 * @event: what happened
 * @v: to whom
 * @handler: path of the handler, "-" for none, NULL to leave the key out
 * @fmt: the keys of this event, each " key=value"
 *
 * Return: the record's number.
 */
u64 gs_event_emit(enum gs_event event, const struct gs_victim *v,
		  const char *handler, const char *fmt, ...)
{
	char *text = gs_ring.record;
	const size_t size = sizeof(gs_ring.record);
	unsigned long flags;
	va_list args;
	size_t n;
	u64 seq;

	spin_lock_irqsave(&gs_ring.lock, flags);
	seq = gs_ring.next;
	gs_ring.counts[event]++;
	n = scnprintf(text, size, "seq=%llu time_ns=%llu event=%s pid=%d comm=",
		      seq, ktime_get_boottime_ns(), gs_event_names[event],
		      v->pid);
	n += gs_escape(text + n, size - n, v->comm);
	n += scnprintf(text + n, size - n, " uid=%u constraint=%s memcg=",
		       v->uid, gs_constraint_name(v->constraint));
	gs_memcg_path(v->memcg, gs_ring.path, sizeof(gs_ring.path));
	n += gs_escape(text + n, size - n, gs_ring.path);
	if (handler) {
		n += scnprintf(text + n, size - n, " handler=");
		n += gs_escape(text + n, size - n, handler);
	}
	va_start(args, fmt);
	n += vscnprintf(text + n, size - n, fmt, args);
	va_end(args);
	text[min(n, size - 2)] = '\n';
	gs_ring_put(text, min(n, size - 2) + 1);
	spin_unlock_irqrestore(&gs_ring.lock, flags);

	trace_graceful_shutdown(seq, gs_event_names[event], v->pid, v->comm,
				v->uid, v->memcg);
	if (gs_ops->count)
		gs_ops->count(event);
	wake_up_interruptible(&gs_ring_wait);
	return seq;
}

static bool gs_reader_has_more(struct gs_reader *r)
{
	return r->done < r->len || r->next < READ_ONCE(gs_ring.next);
}

/* Fetch the next line, if there is one. */
static void gs_reader_fill(struct gs_reader *r)
{
	unsigned long flags;
	size_t head;
	u32 slot;

	r->done = 0;
	r->len = 0;
	spin_lock_irqsave(&gs_ring.lock, flags);
	if (r->next < gs_ring.oldest) {
		r->len = scnprintf(r->line, sizeof(r->line),
				   "seq=%llu time_ns=%llu event=lost count=%llu\n",
				   gs_ring.oldest - 1, ktime_get_boottime_ns(),
				   gs_ring.oldest - r->next);
		r->next = gs_ring.oldest;
	} else if (r->next < gs_ring.next) {
		slot = r->next % GS_RING_RECORDS;
		r->len = gs_ring.len[slot];
		head = min_t(size_t, r->len, GS_RING_BYTES - gs_ring.at[slot]);
		memcpy(r->line, gs_ring.bytes + gs_ring.at[slot], head);
		memcpy(r->line + head, gs_ring.bytes, r->len - head);
		r->next++;
	}
	spin_unlock_irqrestore(&gs_ring.lock, flags);
}

/* Copy whole and part lines until @count bytes are full or nothing is left. */
static ssize_t gs_reader_copy(struct gs_reader *r, char __user *buf,
			      size_t count)
{
	size_t copied = 0;
	size_t n;

	while (copied < count) {
		if (r->done == r->len)
			gs_reader_fill(r);
		if (!r->len)
			break;
		n = min(count - copied, r->len - r->done);
		if (copy_to_user(buf + copied, r->line + r->done, n))
			return copied ?: -EFAULT;
		r->done += n;
		copied += n;
	}
	return copied;
}

static ssize_t gs_events_read(struct file *file, char __user *buf, size_t count,
			      loff_t *ppos)
{
	struct gs_reader *r = file->private_data;
	ssize_t n;

	if (!count)
		return 0;
	for (;;) {
		if (mutex_lock_interruptible(&r->lock))
			return -ERESTARTSYS;
		n = gs_reader_copy(r, buf, count);
		mutex_unlock(&r->lock);
		if (n)
			return n;
		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		if (wait_event_interruptible(gs_ring_wait,
					     gs_reader_has_more(r)))
			return -ERESTARTSYS;
	}
}

static __poll_t gs_events_poll(struct file *file, poll_table *wait)
{
	struct gs_reader *r = file->private_data;

	poll_wait(file, &gs_ring_wait, wait);
	return gs_reader_has_more(r) ? EPOLLIN | EPOLLRDNORM : 0;
}

static int gs_events_open(struct inode *inode, struct file *file)
{
	struct gs_reader *r;

	if (file->f_cred->user_ns != &init_user_ns)
		return -EPERM;
	/* Who reads or polls may sleep here for ever. */
	if (!try_module_get(THIS_MODULE))
		return -ENODEV;
	r = kvmalloc(sizeof(*r), GFP_KERNEL_ACCOUNT);
	if (!r) {
		module_put(THIS_MODULE);
		return -ENOMEM;
	}
	mutex_init(&r->lock);
	r->len = 0;
	r->done = 0;
	/* Begin with the oldest record kept; what went before is not lost. */
	spin_lock_irq(&gs_ring.lock);
	r->next = gs_ring.oldest;
	spin_unlock_irq(&gs_ring.lock);
	file->private_data = r;
	return nonseekable_open(inode, file);
}

static int gs_events_release(struct inode *inode, struct file *file)
{
	kvfree(file->private_data);
	module_put(THIS_MODULE);
	return 0;
}

static const struct proc_ops gs_events_ops = {
	.proc_open	= gs_events_open,
	.proc_read	= gs_events_read,
	.proc_poll	= gs_events_poll,
	.proc_release	= gs_events_release,
};

static struct proc_dir_entry *gs_events_file;

int gs_events_init(void)
{
	gs_ring.bytes = vzalloc(GS_RING_BYTES);
	if (!gs_ring.bytes)
		return -ENOMEM;
	gs_events_file = proc_create("graceful_shutdown_events", 0400, NULL,
				     &gs_events_ops);
	return gs_events_file ? 0 : -ENOMEM;
}

void gs_events_exit(void)
{
	proc_remove(gs_events_file);
	vfree(gs_ring.bytes);
}
