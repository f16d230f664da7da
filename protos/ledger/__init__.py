"""The ledger's rules, pure: Merkle hashing and proofs (RFC 6962), signed notes, checkpoints and cosignatures (C2SP)."""
