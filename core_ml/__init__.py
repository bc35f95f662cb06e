"""The pure ML library of Move 37: recipes and what they are made of. It knows neither Django nor Celery."""
