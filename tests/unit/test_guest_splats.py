"""The guest tests' look at the kernel log: what each detector prints, and what is no splat."""

from __future__ import annotations

import pytest

from tests.guest import splats

#: The line by which a report is known, as kernels from 5.4 to 6.12 print it.
BAD = {
    "lockdep, cycle": "WARNING: possible circular locking dependency detected",
    "lockdep, recursion": "WARNING: possible recursive locking detected",
    "lockdep, state": "WARNING: inconsistent lock state",
    "lockdep, irq": "WARNING: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected",
    "lockdep, wait context": "[ BUG: Invalid wait context ]",
    "lockdep, left held": "WARNING: lock held when returning to user space!",
    "lockdep, exit": "BUG: dd/68 still has locks held! ",
    "lockdep, key": "INFO: trying to register non-static key.",
    "lockdep, own": "DEBUG_LOCKS_WARN_ON(depth <= 0)",
    "lockdep, full": "BUG: MAX_LOCKDEP_ENTRIES too low!",
    "lockdep, off": "turning off the locking correctness validator.",
    "RCU": "WARNING: suspicious RCU usage",
    "RCU stall, 5.4": "rcu: INFO: rcu_sched self-detected stall on CPU",
    "RCU stall": "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
    "atomic sleep": (
        "BUG: sleeping function called from invalid context at include/linux/sched/mm.h:274"
    ),
    "scheduling": "BUG: scheduling while atomic: swapper/0/0/0x00000002",
    "preemption": "BUG: using smp_processor_id() in preemptible [00000000] code: python3/52",
    "KASAN": "BUG: KASAN: slab-use-after-free in gs_entry_put+0x1c/0x60",
    "KASAN, 5.4": "BUG: KASAN: use-after-free in gs_entry_put+0x1c/0x60",
    "SLUB": "BUG kmalloc-64 (Not tainted): Poison overwritten",
    "SLUB, tainted": "BUG gs_entry (Tainted: G    B            ): Object already free",
    "leak": "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
    "leaks no more": "kmemleak: Kernel memory leak detector disabled",
    "objects": (
        "ODEBUG: free active (active state 0) object type: timer_list hint: gs_deadline+0x0/0x60"
    ),
    "objects no more": "ODEBUG: Out of memory. ODEBUG disabled",
    "warning": "WARNING: CPU: 1 PID: 52 at mm/graceful_shutdown.c:99 gs_decide+0x1c/0x60",
    "hung task": "INFO: task khugepaged:31 blocked for more than 60 seconds.",
    "soft lockup": "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [python3:52]",
    "workqueue": "BUG: workqueue lockup - pool cpus=1 node=0 flags=0x0 nice=0 stuck for 31s!",
    "list": "list_del corruption. prev->next should be ffff888004a1b2c8, but was dead000000000100",
    "refcount": "refcount_t: underflow; use-after-free.",
    "page": "BUG: Bad page state in process python3  pfn:01e2f",
    "fault": "BUG: unable to handle page fault for address: ffffffffdeadbeef",
    "oops": "Oops: 0000 [#1] SMP KASAN PTI",
    "protection": "general protection fault, probably for non-canonical address 0xdead: 0000 [#1]",
}

#: What an OOM, an injected fault and a handler print on a healthy kernel.
GOOD = """\
oom_condition_c invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
CPU: 1 PID: 59 Comm: oom_condition_c Not tainted 6.1.192-gs #1
Call Trace:
 dump_stack_lvl+0x36/0x44
 dump_header+0x4a/0x1f0
 oom_kill_process.cold+0xb/0x10
 </TASK>
memory: usage 32768kB, limit 32768kB, failcnt 36
Memory cgroup stats for /gs-test-1:
oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,task=oom_condition_c,pid=59,uid=0
Memory cgroup out of memory: Killed process 59 (oom_condition_c) total-vm:34828kB, anon-rss:32412kB
oom_reaper: reaped process 59 (oom_condition_c), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB
FAULT_INJECTION: forcing a failure.
name failslab, interval 1, probability 0, space 0, times 1
kmemleak: Automatic memory scanning thread started
kmemleak: 0 new suspected memory leaks (see /sys/kernel/debug/kmemleak)
write_file: /no/such/directory/file: No such file or directory
Mem-Info:
DMA free:2048kB boost:0kB min:88kB low:108kB high:128kB reserved_highatomic:0KB
Lockdep is checking: RCU restricting CPUs from NR_CPUS=8 to nr_cpu_ids=2.
HugeTLB: registered 2.00 MiB page size, pre-allocated 0 pages
DEBUG: no report
""".splitlines()


@pytest.mark.parametrize("line", BAD.values(), ids=BAD.keys())
def test_what_every_detector_prints_is_found(line: str) -> None:
    assert splats.of([*GOOD, line, *GOOD]) == [line]


def test_what_a_healthy_kernel_prints_is_none() -> None:
    assert splats.of(GOOD) == []
    assert splats.report(GOOD) == ""


def test_a_report_is_shown_from_its_rule_on() -> None:
    rule = "=" * 54
    text = [*GOOD, rule, BAD["lockdep, cycle"], "6.1.192-gs #1 Not tainted", "-" * 54, "..."]
    assert splats.report(text).splitlines() == text[len(GOOD) :]
    long = [BAD["KASAN"], *(f" frame{number}+0x1/0x2" for number in range(500))]
    assert len(splats.report(long).splitlines()) == splats.SHOWN


LEAKS = """\
unreferenced object 0xffff888004a1b2c0 (size 64):
  comm "python3", pid 52, jiffies 4294901760 (age 13.520s)
  hex dump (first 32 bytes):
    2f 67 73 2f 62 69 6e 2f 64 6f 5f 6e 6f 74 68 69  /gs/bin/do_nothi
  backtrace:
    [<00000000c1f2a5b1>] __kmalloc+0x4b/0x130
    [<0000000039b2aa55>] gs_entry_alloc+0x1c/0x60
    [<00000000e2ab9fbb>] vfs_write+0xb9/0x3a0
unreferenced object 0xffff888004a1b300 (size 32):
  comm "swapper/0", pid 1, jiffies 4294892300 (age 53.520s)
  hex dump (first 32 bytes):
    gs_ 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
  backtrace:
    [<00000000c1f2a5b1>] __kmalloc+0x4b/0x130
    [<0000000039b2aa55>] acpi_init+0x1c/0x60
"""

#: A frame of a module that has been taken out, as 6.1 and as 6.12 show it.
NAMELESS = ["    [<00000000b4b0b7a5>] 0xffffffffc02b1a10", "    0xffffffffc02b1a10"]


@pytest.mark.parametrize("frame", NAMELESS)
def test_a_leak_of_a_module_that_has_gone_is_ours(frame: str) -> None:
    text = LEAKS.replace("    [<0000000039b2aa55>] gs_entry_alloc+0x1c/0x60", frame)
    (found,) = splats.leaks_naming(text, "(?:gs_|graceful_shutdown)")
    assert frame in found


def test_a_leak_is_ours_by_its_backtrace() -> None:
    (found,) = splats.leaks_naming(LEAKS, "(?:gs_|graceful_shutdown)")
    assert found.startswith("unreferenced object 0xffff888004a1b2c0")
    assert splats.leaks_naming("", "gs_") == []
