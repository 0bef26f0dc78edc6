"""Training objectives: each makes batches of packed sequences, and summed losses of a batch."""
