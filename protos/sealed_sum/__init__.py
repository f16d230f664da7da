"""The sealed sum: integer vectors of n members in, their sum out to the members, nothing else to anyone.

Pure: no I/O, no clock, randomness passed in as `rng(num_bytes) -> bytes`. See protos/README.md for the rules.
"""
