"""The scoring API: HTTP and JSON at the edge, one frozen type behind it, one problem document for every refusal."""
