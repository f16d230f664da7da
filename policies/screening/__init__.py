"""Names and jurisdictions against list files, and the risk rating of a customer."""
