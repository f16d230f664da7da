"""What a person sees of a bug: one sentence, and the path of a file that holds the traceback."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from types import TracebackType

from tallystick.supervisor import EXIT_CRASHED


def report_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A `sys.excepthook`: write the traceback to a file of mode 0600 and print one sentence on stderr.

    The traceback holds source lines and the error's text, not the values of variables.
    """
    text = "".join(traceback.format_exception(kind, error, trace))
    try:
        descriptor, path = tempfile.mkstemp(prefix="tallystick-crash-", suffix=".log")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
        place = f"the traceback is in {path}"
    except OSError as problem:
        place = f"and the traceback could not be written ({problem.strerror})"
    sys.stderr.write(
        f"Error: tallystick met a bug of its own ({kind.__name__}); {place}, please report it with that file.\n"
    )


def report_crash_to_supervisor(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The same for a supervised service, which ends at once, other threads or not: it will be started again."""
    report_crash(kind, error, trace)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_CRASHED)
