"""What it learns from: text, labels, tokenizers, tokens, packed rows, and their order."""
