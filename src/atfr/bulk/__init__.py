"""Bulk prediction: archives too large for one process, on Ray, each video exactly once (the extra `atfr[bulk]`)."""
