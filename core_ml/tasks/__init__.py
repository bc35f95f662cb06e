"""Five tasks that a network of a million weights can learn: their problems, their answers, and who likes which.

`problems` draws them, `writers` answers them in four people's styles, `preference` finds the right answer of a
prompt from its text alone and says how good a completion is, and `rows` keeps them in Parquet.
"""

from core_ml.tasks.preference import Judgement, judge, solve

__all__ = ["Judgement", "judge", "solve"]
