"""Every option of every run, and how options are read."""
