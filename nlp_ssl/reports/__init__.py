"""A run as a page: one file for a browser, without scripts and without a network."""
