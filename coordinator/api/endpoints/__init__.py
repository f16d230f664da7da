"""The endpoints of the financing API, a chapter a file; `ENDPOINTS` of `coordinator.api.platform` joins them."""
