"""What both ends must agree on: wire messages and pure protocol mathematics; imports nothing of ours."""
