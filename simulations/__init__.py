"""Whole consortia on one machine: in one process for experiments, in real processes for demos and tests."""
