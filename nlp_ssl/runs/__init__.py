"""The stories: from a configuration to a finished folder."""
