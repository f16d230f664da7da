"""The one error of the data sources."""

from __future__ import annotations

from policies.errors import UserError


class DataSourceError(UserError):
    """The rows cannot be read; `str(error)` is one sentence without any value from the data.

    Texts of pandas, pyarrow, SQLAlchemy and of the database drivers quote rows, statements and addresses. Code that
    raises this error therefore writes its own text and raises `from None`, so that no log shows theirs either.
    """
