/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_GRACEFUL_SHUTDOWN_H
#define _LINUX_GRACEFUL_SHUTDOWN_H

/*
 * A registered process gets a handler run before the OOM killer kills it.
 * These are the hooks for mm/oom_kill.c; the rest is in mm/graceful_shutdown*.
 *
 * The core may also be built as a module for a kernel that has no such hooks.
 */

#include <linux/jump_label.h>
#include <linux/mm_types.h>
#include <linux/sched.h>
#include <linux/types.h>

struct mem_cgroup;
struct mm_struct;
struct oom_control;
struct page;
struct pglist_data;
struct task_struct;

/* Stabilised by oom_lock. */
extern bool oom_killer_disabled;

#if IS_ENABLED(CONFIG_GRACEFUL_SHUTDOWN)

DECLARE_STATIC_KEY_FALSE(graceful_shutdown_active);

void __graceful_shutdown_choice(struct oom_control *oc);
void __graceful_shutdown_fault_begin(void);
void __graceful_shutdown_fault_end(vm_fault_t ret);
bool graceful_shutdown_fault_oom(void);
bool graceful_shutdown_left(void);
struct page *__graceful_shutdown_page(gfp_t gfp_mask);
bool __graceful_shutdown_gives_up(gfp_t gfp_mask, bool charge);
bool __graceful_shutdown_rests_kswapd(struct pglist_data *pgdat);
void graceful_shutdown_killing(struct oom_control *oc, bool group);
void graceful_shutdown_killed(struct task_struct *victim, struct mm_struct *mm);

#endif

#ifdef CONFIG_GRACEFUL_SHUTDOWN

/**
 * graceful_shutdown_choice - give the chosen victim its grace
 * @oc: the OOM in hand, with its victim in @oc->chosen
 *
 * Called with oom_lock held, which may be dropped and taken again. Afterwards
 * @oc->chosen is the victim to kill, or (void *)-1UL where the allocation is to
 * be tried again, or NULL where it is to fail; the reference has then been put.
 */
static inline void graceful_shutdown_choice(struct oom_control *oc)
{
	if (static_branch_unlikely(&graceful_shutdown_active))
		__graceful_shutdown_choice(oc);
}

/**
 * graceful_shutdown_fault_begin - a page fault begins to be handled
 * @user: it came from user mode, so that it can be tried again without harm
 */
static inline void graceful_shutdown_fault_begin(bool user)
{
	if (static_branch_unlikely(&graceful_shutdown_active) && user)
		__graceful_shutdown_fault_begin();
}

/**
 * graceful_shutdown_fault_end - a page fault from user mode has been handled
 * @ret: how it ended
 *
 * Not by the static key: that may have been switched off in the meantime.
 */
static inline void graceful_shutdown_fault_end(vm_fault_t ret)
{
	if (unlikely(current->graceful_shutdown))
		__graceful_shutdown_fault_end(ret);
}

/**
 * graceful_shutdown_page - what is set aside for handlers
 * @gfp_mask: of an allocation that found no free page
 * @order: its order
 *
 * Return: a page, if current belongs to the handler of a global OOM; or NULL.
 */
static inline struct page *graceful_shutdown_page(gfp_t gfp_mask,
						  unsigned int order)
{
	if (static_branch_unlikely(&graceful_shutdown_active) && !order)
		return __graceful_shutdown_page(gfp_mask);
	return NULL;
}

/**
 * graceful_shutdown_gives_up - does current wait where its fault ends?
 * @gfp_mask: of an allocation that found no free page, or of a charge
 * @charge: whether it is a charge
 *
 * It has met the OOM in this fault, or is the victim of a global one whose handler
 * runs, and is about to reclaim.
 *
 * Return: whether to fail at once, so that the fault ends.
 */
static inline bool graceful_shutdown_gives_up(gfp_t gfp_mask, bool charge)
{
	return static_branch_unlikely(&graceful_shutdown_active) &&
	       __graceful_shutdown_gives_up(gfp_mask, charge);
}

/**
 * graceful_shutdown_rests_kswapd - leave the page cache alone for now?
 * @pgdat: the node whose kswapd has work
 *
 * In a global OOM there is nothing else left to reclaim than what the handler has
 * just read, and kswapd would go on until it has that.
 *
 * Return: whether a handler of a global OOM runs, with plenty set aside for it.
 */
static inline bool graceful_shutdown_rests_kswapd(struct pglist_data *pgdat)
{
	return static_branch_unlikely(&graceful_shutdown_active) &&
	       __graceful_shutdown_rests_kswapd(pgdat);
}

#elif !IS_ENABLED(CONFIG_GRACEFUL_SHUTDOWN)

static inline struct page *graceful_shutdown_page(gfp_t gfp_mask,
						  unsigned int order)
{
	return NULL;
}

static inline bool graceful_shutdown_gives_up(gfp_t gfp_mask, bool charge)
{
	return false;
}

static inline bool graceful_shutdown_rests_kswapd(struct pglist_data *pgdat)
{
	return false;
}

static inline void graceful_shutdown_fault_begin(bool user)
{
}

static inline void graceful_shutdown_fault_end(vm_fault_t ret)
{
}

static inline bool graceful_shutdown_fault_oom(void)
{
	return false;
}

static inline bool graceful_shutdown_left(void)
{
	return false;
}

static inline void graceful_shutdown_choice(struct oom_control *oc)
{
}

static inline void graceful_shutdown_killing(struct oom_control *oc, bool group)
{
}

static inline void graceful_shutdown_killed(struct task_struct *victim,
					    struct mm_struct *mm)
{
}

#endif /* CONFIG_GRACEFUL_SHUTDOWN */
#endif /* _LINUX_GRACEFUL_SHUTDOWN_H */
