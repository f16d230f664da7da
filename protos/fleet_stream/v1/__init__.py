"""Generated from fleet_stream.proto; regenerate with `make protos`."""
