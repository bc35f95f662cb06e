"""The OpenAI-compatible server over every checkpoint of the lab. `python -m core_ml.engine` starts it."""
