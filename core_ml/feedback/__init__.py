"""Learning from people: rankings become pairs, pairs a reward model, and the reward model a better policy."""
