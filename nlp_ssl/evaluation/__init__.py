"""Is it any good: held-out loss, bits per byte, and metrics that need no network."""
