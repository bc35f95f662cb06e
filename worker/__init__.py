"""Celery workers: they claim runs and supervise one child process for each."""
