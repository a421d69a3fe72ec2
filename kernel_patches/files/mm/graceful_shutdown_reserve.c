// SPDX-License-Identifier: GPL-2.0
/*
 * Memory set aside for handlers. In a global OOM nothing is free, and a handler
 * needs pages for its code, its data and the files that it writes. They are
 * gathered while anything is registered, outside of the OOM path, and handed
 * over in slices: the first when grace begins, the next whenever the handler's
 * session meets the OOM itself.
 *
 * Blocks, not pages: freed pages of order 0 land on per-cpu lists that no
 * watermark sees. Nothing stops another task from taking what is handed over.
 */

#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/mm.h>

#include "graceful_shutdown.h"

#define GS_BLOCK_ORDER	4
#define GS_BLOCK_KB	((PAGE_SIZE << GS_BLOCK_ORDER) / 1024)
#define GS_SLICE_KB	1024UL

/* Guarded by gs_lock. */
static LIST_HEAD(gs_blocks);
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
	return true;
}

/**
 * gs_reserve_hand_over - give out a slice
 * @first: grace begins; else the session asks for more
 *
 * The first slice is a half of what there is: most handlers need no more, and
 * their start does not have to meet the OOM for it.
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
	gs_reserve_free(ULONG_MAX);
	spin_lock_irq(&gs_lock);
	gs_nr_out = 0;
	spin_unlock_irq(&gs_lock);
}
