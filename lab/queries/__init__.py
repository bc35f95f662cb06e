"""Every read: noun first."""
