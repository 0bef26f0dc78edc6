"""Text: from the Hub, from files, built in."""
