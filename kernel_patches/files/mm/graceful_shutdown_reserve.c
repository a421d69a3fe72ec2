// SPDX-License-Identifier: GPL-2.0
/*
 * Memory set aside for handlers. In a global OOM nothing is free, and a handler
 * needs pages for its code, its data and the files that it writes. They are
 * gathered while anything is registered, outside of the OOM path.
 *
 * In a patched kernel the page allocator asks here on behalf of a handler's
 * session, or of a victim that saves itself while no handler runs, page by page,
 * before it reclaims anything: nobody else can take them.
 * And kswapd rests, so that what the handler has read stays.
 * What goes beyond single pages, and everything on a kernel that does not ask, is
 * given back to the allocator in slices, whenever the session meets the OOM itself.
 * Nothing stops another task from taking that.
 *
 * Blocks, not pages: freed pages of order 0 land on per-cpu lists that no
 * watermark sees.
 */

#include <linux/gfp.h>
#include <linux/highmem.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/sched/signal.h>
#include <linux/wait.h>

#include <linux/graceful_shutdown.h>
#include "graceful_shutdown.h"

#define GS_BLOCK_ORDER	4
#define GS_BLOCK_KB	((PAGE_SIZE << GS_BLOCK_ORDER) / 1024)
#define GS_SLICE_KB	1024UL

/* Guarded by gs_lock. */
static LIST_HEAD(gs_blocks);
static LIST_HEAD(gs_pages);	/* of blocks that were split */
static unsigned long gs_nr_blocks;
static unsigned long gs_nr_out;	/* handed over, not gathered again */

/* 1 % of memory, at least 8 and at most 64 MB. */
unsigned long gs_reserve_default_kb(void)
{
	return clamp(gs_kb(totalram_pages()) / 100, 8192UL, 65536UL);
}

static unsigned long gs_reserve_target(void)
{
	return READ_ONCE(gs_sysctl_reserve_kb) / GS_BLOCK_KB;
}

/* The memory that is set aside now, in kB. */
unsigned long gs_reserve_held(void)
{
	return READ_ONCE(gs_nr_blocks) * GS_BLOCK_KB;
}

/* The memory that was handed over and not gathered again, in pages. */
unsigned long gs_reserve_out(void)
{
	return READ_ONCE(gs_nr_out) << GS_BLOCK_ORDER;
}

/* Give @nr blocks back; how many there were. */
static unsigned long gs_reserve_free(unsigned long nr)
{
	struct page *page, *next;
	unsigned long freed = 0;
	LIST_HEAD(slice);

	spin_lock_irq(&gs_lock);
	while (freed < nr && !list_empty(&gs_blocks)) {
		list_move(gs_blocks.next, &slice);
		gs_nr_blocks--;
		freed++;
	}
	gs_nr_out += freed;
	spin_unlock_irq(&gs_lock);

	list_for_each_entry_safe(page, next, &slice, lru) {
		list_del(&page->lru);
		__free_pages(page, GS_BLOCK_ORDER);
	}
	return freed;
}

/* There is more than there should be. */
static void gs_reserve_shrink(unsigned long target)
{
	unsigned long held = READ_ONCE(gs_nr_blocks);
	unsigned long freed = held > target ? gs_reserve_free(held - target) : 0;

	/* For everybody, not handed over. */
	spin_lock_irq(&gs_lock);
	gs_nr_out -= min(freed, gs_nr_out);
	spin_unlock_irq(&gs_lock);
}

/*
 * Try to have all of it, and no more. A machine that is short of memory has less.
 *
 * Return: whether it is all there.
 */
bool gs_reserve_gather(void)
{
	const gfp_t gfp = GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN |
			  __GFP_NOMEMALLOC;
	unsigned long target = gs_reserve_target();
	struct page *page;

	gs_reserve_shrink(target);
	while (READ_ONCE(gs_nr_blocks) < target) {
		page = alloc_pages(gfp, GS_BLOCK_ORDER);
		if (!page)
			return false;
		spin_lock_irq(&gs_lock);
		/* What was handed over just now must not come back. */
		if (gs_global_grace_runs()) {
			spin_unlock_irq(&gs_lock);
			__free_pages(page, GS_BLOCK_ORDER);
			return false;
		}
		list_add(&page->lru, &gs_blocks);
		gs_nr_blocks++;
		if (gs_nr_out)
			gs_nr_out--;
		spin_unlock_irq(&gs_lock);
	}
	/* What was handed over when there was to be more of it is not missed. */
	spin_lock_irq(&gs_lock);
	if (!gs_global_grace_runs())
		gs_nr_out = 0;
	spin_unlock_irq(&gs_lock);
	return true;
}

static struct page *gs_take(struct list_head *pages)
{
	struct page *page = list_first_entry_or_null(pages, struct page, lru);

	if (page)
		list_del(&page->lru);
	return page;
}

/* A page of those that are set aside, or NULL. */
static struct page *gs_reserve_page(void)
{
	struct page *page = gs_take(&gs_pages);
	unsigned int i;

	lockdep_assert_held(&gs_lock);
	if (page)
		return page;
	page = gs_take(&gs_blocks);
	if (!page)
		return NULL;
	gs_nr_blocks--;
	gs_nr_out++;
	split_page(page, GS_BLOCK_ORDER);
	for (i = 1; i < 1 << GS_BLOCK_ORDER; i++)
		list_add_tail(&page[i].lru, &gs_pages);
	return page;
}

/* What the allocator does with a page, and has done with the first of a block only. */
static void gs_prepare(struct page *page, gfp_t gfp_mask)
{
	set_page_private(page, 0);
	clear_page_pfmemalloc(page);
	if (want_init_on_alloc(gfp_mask))
		clear_highpage(page);
}

static bool gs_reserve_is_for_current(void)
{
	const struct gs_grace *g = gs_session_of(task_tgid(current));

	if (g)
		return !g->over && g->who.constraint == CONSTRAINT_NONE;
	return gs_victim_saves_itself();
}

/*
 * Only for allocations that may wait: gs_lock must not be taken anywhere, and the
 * others have the allocator's own reserve.
 */
struct page *__graceful_shutdown_page(gfp_t gfp_mask)
{
	const gfp_t mask = __GFP_DIRECT_RECLAIM | __GFP_DMA | __GFP_DMA32 |
			   __GFP_THISNODE;
	struct page *page = NULL;
	unsigned long flags;

	if ((gfp_mask & mask) != __GFP_DIRECT_RECLAIM ||
	    !(gs_session_has(task_tgid(current)) ||
	      gs_machine_grace_runs(task_tgid(current))))
		return NULL;
	spin_lock_irqsave(&gs_lock, flags);
	if (gs_reserve_is_for_current())
		page = gs_reserve_page();
	spin_unlock_irqrestore(&gs_lock, flags);
	if (page)
		gs_prepare(page, gfp_mask);
	return page;
}

/*
 * For kswapd, and for whoever is about to wake it, with any locks held: so without
 * gs_lock, and what is read may be old.
 *
 * The first eighth is for handlers that need little and are to be quick. With a
 * larger one kswapd works again, or what is set aside is used up before its end.
 */
bool __graceful_shutdown_rests_kswapd(struct pglist_data *pgdat)
{
	if (8 * READ_ONCE(gs_nr_blocks) <= 7 * gs_reserve_target())
		return false;
	/*
	 * Not while somebody is throttled until kswapd has worked. Who comes to that
	 * after this look wakes kswapd once more: see allow_direct_reclaim().
	 */
	if (waitqueue_active(&pgdat->pfmemalloc_wait))
		return false;
	return gs_machine_grace_runs(NULL);
}

/**
 * gs_reserve_hand_over - give a slice back to the allocator
 * @first: grace begins; else the session asks for more
 *
 * The first slice is a half of what there is: for a victim that acts on a signal,
 * and for handlers where the allocator does not ask for single pages. Most need no
 * more, and do not have to meet the OOM for it.
 *
 * Return: whether there was anything left.
 */
bool gs_reserve_hand_over(bool first)
{
	unsigned long nr = GS_SLICE_KB / GS_BLOCK_KB;

	if (first)
		nr = max(nr, READ_ONCE(gs_nr_blocks) / 2);
	return gs_reserve_free(nr);
}

/* Nothing is registered any more. */
void gs_reserve_drop(void)
{
	struct page *page, *next;
	LIST_HEAD(pages);

	gs_reserve_free(ULONG_MAX);
	spin_lock_irq(&gs_lock);
	gs_nr_out = 0;
	list_splice_init(&gs_pages, &pages);
	spin_unlock_irq(&gs_lock);
	list_for_each_entry_safe(page, next, &pages, lru)
		__free_page(page);
}
