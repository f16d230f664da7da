"""What a step message carries, by name: one action, one body, and in the reply a body or a refusal.

Both sides build Flower records under these names; the body is opaque here. One record with one entry, because every
further object would cost a request on Flower's own routes and buys nothing on the stream.
"""

MESSAGE_TYPE = "query.step"
"""Flower's message type: category `query`, action `step`."""

STEP_RECORD = "step"
"""Request: `ACTION` and `BODY`."""

REPLY_RECORD = "reply"
"""Answer of a node that did the step: `BODY`."""

REFUSAL_RECORD = "refusal"
"""Answer of a node that did not: `CODE` and `SENTENCE`."""

ACTION = "action"
BODY = "body"
CODE = "code"
SENTENCE = "sentence"

INTERNAL_ERROR = "InternalError"
"""Refusal code of a failure whose details stay in the node's own log."""

NOT_ADMITTED_HEADER = "tallystick-not-admitted"
"""Response header of a 403 that concerns the node's key; Flower's own 403 concerns a run."""

STREAM_PORT_HEADER = "tallystick-stream-port"
"""Response header of the fleet port: where the stream is served, so that a node is configured with one address."""
