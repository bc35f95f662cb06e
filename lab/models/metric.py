"""Metrics as chunks of packed points, and coarser levels of full chunks.

Level 0 holds the points themselves; a bucket of level n + 1 spans `FOLD` of level n and keeps their minimum
and maximum. A chart of any range then reads a bounded number of rows.
"""

from django.db import models

CHUNK_POINTS = 1000
FOLD = 10


class MetricChunk(models.Model):
    run = models.ForeignKey("Run", models.CASCADE, related_name="chunks")
    name = models.CharField(max_length=100)
    level = models.SmallIntegerField(default=0)
    first_step = models.BigIntegerField()
    last_step = models.BigIntegerField()
    n_points = models.IntegerField()
    minimum = models.FloatField(null=True)
    maximum = models.FloatField(null=True)
    last_value = models.FloatField(null=True)
    steps = models.BinaryField()
    """Little-endian int64; of a coarser bucket its last step."""
    lows = models.BinaryField()
    """Little-endian float64: the values at level 0, the buckets' minima above."""
    highs = models.BinaryField(default=b"")
    """Little-endian float64: empty at level 0, the buckets' maxima above."""

    class Meta:
        ordering = ["run", "name", "level", "first_step"]
        indexes = [models.Index(fields=["run", "name", "level", "first_step"])]

    def __str__(self) -> str:
        return f"{self.name} of {self.run_id}, steps {self.first_step} to {self.last_step}"
