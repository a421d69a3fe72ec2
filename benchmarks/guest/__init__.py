"""The part of the benchmark that runs inside the guest and writes down samples; judges nothing."""
