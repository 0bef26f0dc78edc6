"""A finished model answers texts that a person types: in the terminal, on a local page, in a Space of the Hub."""
