"""Packed sequences, their order, and batches of them."""
