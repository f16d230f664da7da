"""Credit models and their reports: plain functions over arrays, no I/O of runs."""
