"""What is allowed: the agreement all members signed, and each node owner's own policy."""
