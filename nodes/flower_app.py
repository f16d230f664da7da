"""The node's Flower ClientApp: one action, which hands a step to the installed handler and answers or refuses."""

import logging
from collections.abc import Callable

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from policies.errors import UserError
from protos.fleet_stream.records import (
    ACTION,
    BODY,
    CODE,
    INTERNAL_ERROR,
    REFUSAL_RECORD,
    REPLY_RECORD,
    SENTENCE,
    STEP_RECORD,
)
from protos.sealed_sum.errors import SealedSumError

logger = logging.getLogger(__name__)

Handle = Callable[[str, bytes], bytes]
"""Answers a step: (action, body) to reply. Must be idempotent, since a step whose answer was lost is sent again."""


def client_app(handle: Handle) -> ClientApp:
    """Wrap a handler for Flower.

    A `UserError` or `SealedSumError` of the handler travels as a refusal in its own words. Any other exception could
    quote a row, so that only the fact of it leaves the node.

    Args:
        handle: Answers the steps.
    """
    app = ClientApp()

    @app.query("step")  # type: ignore[untyped-decorator]  # flwr is not followed by the type checker
    def step(message: Message, _context: Context) -> Message:
        return Message(_answer(handle, message.content), reply_to=message)

    return app


def _answer(handle: Handle, content: RecordDict) -> RecordDict:
    """Run the handler on a step's records."""
    record = content.get(STEP_RECORD)
    action, body = (record.get(ACTION), record.get(BODY)) if isinstance(record, ConfigRecord) else (None, None)
    if not isinstance(action, str) or not isinstance(body, bytes):
        return _refusal("MalformedStep", "expected a step with an action and a body, got other records")
    try:
        reply = handle(action, body)
    except (UserError, SealedSumError) as refused:
        logger.warning("step %s refused: %s", action, refused)
        return _refusal(type(refused).__name__, str(refused))
    except Exception:  # the edge of the process: whatever it is, it stays in this node's log
        logger.exception("step %s failed", action)
        return _refusal(INTERNAL_ERROR, f"the node failed at step {action}; its own log holds the details")
    return RecordDict({REPLY_RECORD: ConfigRecord({BODY: reply})})


def _refusal(code: str, sentence: str) -> RecordDict:
    return RecordDict({REFUSAL_RECORD: ConfigRecord({CODE: code, SENTENCE: sentence})})
