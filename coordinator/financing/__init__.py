"""The use cases of the financing API, without HTTP: decide, offer, review, watch, disburse."""
