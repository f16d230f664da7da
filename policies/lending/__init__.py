"""Lending policy: limits, rates, reserves and reasons from decision tables, as pure functions over frozen types."""
