"""Proves the promises on a user's own set-up."""
