/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM oom

#if !defined(_TRACE_GRACEFUL_SHUTDOWN_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_GRACEFUL_SHUTDOWN_H

#include <linux/sched.h>
#include <linux/tracepoint.h>

/* One for each record of /proc/graceful_shutdown_events, with its number. */
TRACE_EVENT(graceful_shutdown,

	TP_PROTO(u64 seq, const char *event, pid_t pid, const char *comm,
		 uid_t uid, bool memcg),

	TP_ARGS(seq, event, pid, comm, uid, memcg),

	TP_STRUCT__entry(
		__field(u64, seq)
		__field(pid_t, pid)
		__field(uid_t, uid)
		__field(bool, memcg)
		__array(char, event, 16)
		__array(char, comm, TASK_COMM_LEN)
	),

	TP_fast_assign(
		__entry->seq = seq;
		__entry->pid = pid;
		__entry->uid = uid;
		__entry->memcg = memcg;
		strscpy(__entry->event, event, sizeof(__entry->event));
		strscpy(__entry->comm, comm, sizeof(__entry->comm));
	),

	TP_printk("seq=%llu event=%s pid=%d comm=%s uid=%u memcg=%d",
		  __entry->seq, __entry->event, __entry->pid, __entry->comm,
		  __entry->uid, __entry->memcg)
);

#endif /* _TRACE_GRACEFUL_SHUTDOWN_H */

#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE graceful_shutdown
#include <trace/define_trace.h>
