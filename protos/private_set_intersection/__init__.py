"""Which entities two members both know: the feature holder learns it, the label holder and the relay learn sizes.

Pure: no I/O, no clock, randomness passed in as `rng(num_bytes) -> bytes`. See protos/README.md for the rules.
"""
