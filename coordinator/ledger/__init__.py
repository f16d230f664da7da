"""The ledger at work: entries in the database, checkpoints, witnesses, exports and audits."""
