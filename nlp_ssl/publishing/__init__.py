"""What leaves the machine: the model card, the report, the push to the Hub."""
