/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_GRACEFUL_SHUTDOWN_COMPAT_H
#define _MM_GRACEFUL_SHUTDOWN_COMPAT_H

/*
 * What changed between Linux 5.4 and 6.12. Every test of a version is here,
 * and the core is written for the newest kernel.
 */

#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/namei.h>
#include <linux/proc_fs.h>
#include <linux/sched/signal.h>
#include <linux/sched/user.h>
#include <linux/user_namespace.h>
#include <linux/version.h>

#include "graceful_shutdown.h"

/* Of the kernel that it is built for, two numbers. */
#define GS_SERIES_MAJOR	(LINUX_VERSION_CODE >> 16)
#define GS_SERIES_MINOR	((LINUX_VERSION_CODE >> 8) & 0xff)

#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 6, 0)
#define proc_ops	file_operations
#define proc_open	open
#define proc_read	read
#define proc_write	write
#define proc_lseek	llseek
#define proc_poll	poll
#define proc_release	release
#endif

#ifndef data_race	/* since 5.8 */
#define data_race(expr)	(expr)
#endif

/* Since 6.11 a table ends where its array does. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0)
#define GS_CTL_TABLE_END	{ }
#else
#define GS_CTL_TABLE_END
#endif

/* The arguments of a sysctl's handler: __user until 5.8, const since 6.11. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 8, 0)
#define GS_CTL_BUFFER	void __user
#else
#define GS_CTL_BUFFER	void
#endif
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0)
#define GS_CTL_CONST
#else
#define GS_CTL_CONST	const
#endif

static inline int gs_path_permission(const struct path *path, int mask)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 12, 0)
	return inode_permission(d_inode(path->dentry), mask);
#else
	return path_permission(path, mask);
#endif
}

static inline struct timespec64 gs_inode_ctime(const struct inode *inode)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 6, 0)
	return inode->i_ctime;
#else
	return inode_get_ctime(inode);
#endif
}

/*
 * What lets a launcher use the last pages while it becomes a handler. Since 6.12
 * an allocation that may not fail, such as that of a directory's block, warns when
 * it meets PF_MEMALLOC. The launcher then lives on what is handed over: as one of
 * its session it gets the next slice when it meets the OOM.
 */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0)
#define GS_LAUNCHER_FLAGS	PF_MEMALLOC
#else
#define GS_LAUNCHER_FLAGS	0
#endif

/* Since 5.14 credentials hold the counts of their user, too. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 14, 0)
#define GS_HAS_UCOUNTS	0
#define gs_get_ucounts	NULL
#define gs_put_ucounts	NULL
#else
#define GS_HAS_UCOUNTS	1
#define gs_get_ucounts	get_ucounts
#define gs_put_ucounts	put_ucounts
#endif

/* Whom a process counts for, which must go with its uid. */
static inline int gs_transfer_user(struct cred *new, const struct cred *old)
{
#if GS_HAS_UCOUNTS
	struct ucounts *ucounts = gs_ops->get_ucounts(old->ucounts);

	if (!ucounts)
		return -EAGAIN;
	gs_ops->put_ucounts(new->ucounts);
	new->ucounts = ucounts;
#endif
	gs_ops->free_uid(new->user);
	new->user = get_uid(old->user);
	return 0;
}

static inline u64 gs_start_boottime(const struct task_struct *task)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 5, 0)
	return task->real_start_time;
#else
	return task->start_boottime;
#endif
}

static inline bool gs_is_filtered(struct task_struct *task)
{
#ifdef CONFIG_SECCOMP
	return task->seccomp.mode;
#else
	return false;
#endif
}

/* A process that dumps core may take long to give its memory back. */
static inline bool gs_dumps_core(struct task_struct *task)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 16, 0)
	return task->signal->flags & SIGNAL_GROUP_COREDUMP;
#else
	return task->signal->core_state;
#endif
}

/* ---- hooks of the module ----------------------------------------------- */

#ifdef MODULE

#include <linux/ftrace.h>
#include <linux/ptrace.h>

#if !defined(CONFIG_DYNAMIC_FTRACE_WITH_REGS) && \
	!defined(CONFIG_DYNAMIC_FTRACE_WITH_ARGS)
#error "This kernel's ftrace cannot change where a call goes to."
#endif

/* Until 5.10 a hook is guarded against itself, where it does not say that it need not. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 11, 0)
#define ftrace_regs	pt_regs
#define ftrace_get_regs(_regs)	(_regs)
#define GS_HOOK_UNGUARDED	FTRACE_OPS_FL_RECURSION_SAFE
#else
#define GS_HOOK_UNGUARDED	0
#endif

/* Since 5.5 there are hooks that sysctl kernel.ftrace_enabled does not switch off. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 5, 0)
#define GS_HOOK_STAYS		0
#else
#define GS_HOOK_STAYS		FTRACE_OPS_FL_PERMANENT
#endif

/* Since 6.2 a hook can do both without having all registers saved. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)
#define GS_HOOK_REGS		FTRACE_OPS_FL_SAVE_REGS

static inline unsigned long gs_hook_argument(struct ftrace_regs *regs)
{
	return regs_get_kernel_argument(ftrace_get_regs(regs), 0);
}

static inline void gs_hook_divert(struct ftrace_regs *regs, unsigned long to)
{
	instruction_pointer_set(ftrace_get_regs(regs), to);
}
#else
#define GS_HOOK_REGS		0

static inline unsigned long gs_hook_argument(struct ftrace_regs *regs)
{
	return ftrace_regs_get_argument(regs, 0);
}

static inline void gs_hook_divert(struct ftrace_regs *regs, unsigned long to)
{
	ftrace_regs_set_instruction_pointer(regs, to);
}
#endif

#ifdef CONFIG_ARM64
#define GS_BRANCHES_OFF	"arm64.nobti"
#else
#define GS_BRANCHES_OFF	"ibt=off"
#endif

/*
 * Where a processor enforces it, the kernel has sealed the functions whose address it
 * takes nowhere, and a call by pointer ends there.
 */
static inline bool gs_tracks_branches(void)
{
#if defined(CONFIG_X86_KERNEL_IBT)
	return boot_cpu_has(X86_FEATURE_IBT);
#elif defined(CONFIG_ARM64_BTI_KERNEL)
	return system_supports_bti();
#else
	return false;
#endif
}

#define GS_HOOK_FLAGS	(GS_HOOK_UNGUARDED | GS_HOOK_STAYS | GS_HOOK_REGS)

#endif /* MODULE */

#endif /* _MM_GRACEFUL_SHUTDOWN_COMPAT_H */
