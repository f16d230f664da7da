"""The scoring gateway: what clients ask of it, and the stream that each node keeps open to it."""
