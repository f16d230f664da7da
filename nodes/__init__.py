"""The side where the rows stay: data sources, the owner's guard, training, the connection to the coordinator."""

import os

# Flower reads both at import and would otherwise report to its makers; nothing of ours may call home.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
