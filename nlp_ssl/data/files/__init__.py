"""Files on this machine: which there are, what each is, and the rows in it."""
