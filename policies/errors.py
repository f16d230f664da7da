"""The errors that a person at a terminal reads.

Tree::

    UserError                what the command line prints as one sentence, exit code 1
      AgreementRefused       an agreement, or a signature on it, is not acceptable
      SettingsRefused        a settings or policy file, or a key that it names, is not acceptable
      GuardRefused           this node's own policy does not allow what was proposed
"""

from __future__ import annotations


class UserError(Exception):
    """Something its reader can put right: `str(error)` is one sentence (expected, found, what to do)."""


class AgreementRefused(UserError):
    """The agreement, or a signature on it, is not acceptable."""


class SettingsRefused(UserError):
    """A settings or policy file, or a key file that it names, is not acceptable."""


class GuardRefused(UserError):
    """The owner's policy of this node does not allow what was proposed."""
