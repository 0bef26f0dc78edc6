"""What everything stands on: errors, the terminal, signals, files, the network."""
