"""Sums of whole numbers within a role: every member of it learns the sum, nobody learns a term, the relay nothing."""
