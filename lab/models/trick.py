"""What people say of the tricks that a hunt found: nonsense, or an answer that deserves its score."""

from django.db import models

VERDICTS = ("nonsense", "fair")


class TrickMark(models.Model):
    """One word of one person on one trick. The newest word on a trick counts, in whichever hunt it was given: a trick's
    id follows from what it does. Taking a mark back removes its row, and what was said before counts again."""

    run = models.ForeignKey("Run", models.CASCADE, related_name="trick_marks")
    trick = models.CharField(max_length=12, db_index=True)
    verdict = models.CharField(max_length=8, choices=[(name, name) for name in VERDICTS])
    by = models.ForeignKey("Account", models.SET_NULL, null=True)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.trick}: {self.verdict}"
