"""What leaves the machine: the model card, curves, pictures and tables, the push to the Hub."""
