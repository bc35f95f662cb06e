"""The REST API: one file for each resource, all over the same services and queries as the pages."""
