"""Every write: verb first."""
