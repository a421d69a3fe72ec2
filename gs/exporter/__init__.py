"""`gs exporter`: what the OOM killer does, as figures for Prometheus.

Data flows one way: the sources of events (sources, kernellog, memoryevents) → one record for each
thing that happened (merge) → counters and the last kills (counts), which are kept together with the
positions in the sources (state, follow) → their exposition (exposition), the only module that knows
prometheus_client.
"""
