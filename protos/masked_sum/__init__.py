"""The masked sum: masks and survivor rules of the sealed sum, modulo 2^64, unsealed: the platform opens the total."""
