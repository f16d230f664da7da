"""Benchmarks behind `tallystick bench`: each module has a `run` that gives flat rows."""
