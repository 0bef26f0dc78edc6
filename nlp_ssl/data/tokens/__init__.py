"""Tokenizers, and the tokenized corpus on disk."""
