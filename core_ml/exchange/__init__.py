"""Formats of the outside world: what is published elsewhere read in, and what was trained here written out."""
