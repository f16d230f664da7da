"""How a step of a run reaches the members and their answers come back; the driver sees `steps` alone."""
