"""Decisions and what belongs to them, each with its ledger entry or not at all."""
