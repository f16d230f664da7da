"""The side that never sees a row: it relays, adds ciphertexts, logs what was released, and serves."""
