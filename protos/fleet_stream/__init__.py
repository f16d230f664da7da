"""The stream between a node and its coordinator: the service, its frames, and the records a step message carries."""
