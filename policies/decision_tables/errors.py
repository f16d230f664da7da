"""What can be wrong with a policy, each as one sentence."""

from __future__ import annotations

from policies.errors import UserError


class PolicyRefused(UserError):
    """A policy folder, a table in it, or a question to it is not acceptable."""


class NoRow(PolicyRefused):
    """A table has no row for what it was asked: there is no answer, and nobody may guess one."""
