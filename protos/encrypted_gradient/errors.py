"""Every way an encrypted gradient refuses, as one type each, with what was expected and what was found.

EncryptedGradientError
|-- GradientBounds          sums that could wrap modulo t, or residuals and columns outside their range (B1)
|-- ColumnBetraysRows       a column with too little support: its gradient would be a few rows' labels (B3)
|-- QueryBudgetExceeded     more exact questions about the labels than the agreement allows (B4, B5)
|-- TooFewContributors      a sum of partial scores, or of label holders' answers, that would show one term (B5, B6)
|-- MalformedGradient       bytes that are not the message they should be
`-- WrongPass               a message of another session, pass or shape
"""

from __future__ import annotations

from protos.sealed_sum.errors import SealedSumError


class EncryptedGradientError(SealedSumError):
    """An encrypted gradient was refused; `str()` is one sentence that is safe to show and to log."""


class GradientBounds(EncryptedGradientError):
    """A sum could wrap modulo t, or a value is outside the range that the bounds are proven for (B1)."""


class ColumnBetraysRows(EncryptedGradientError):
    """A column is touched by so few rows that its gradient would be about them (B3)."""


class QueryBudgetExceeded(EncryptedGradientError):
    """More columns and passes than the labels may be asked (B4), or more passes than allowed (B5)."""


class TooFewContributors(EncryptedGradientError):
    """A masked sum of so few terms that one of them would be seen (B5, B6)."""


class MalformedGradient(EncryptedGradientError):
    """Received bytes are not the message they should be."""


class WrongPass(EncryptedGradientError):
    """A message belongs to another session, pass or shape."""
