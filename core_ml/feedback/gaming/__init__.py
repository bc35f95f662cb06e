"""A hunt for answers that score high and are nonsense: the searches, and what a reward model says of what they find."""
