"""Messages of a run between the coordinator and the nodes."""
