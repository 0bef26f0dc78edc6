"""What learns: named sizes, isolated attention, logits only where there are labels."""
