"""The five stages of a crawl run: render, extract, dedup, clean, finish.

FineWeb's eight stages of filtering lie inside them: what needs one page at a time is done in shards by all
workers (`extract`, `clean`), what needs the whole corpus in one (`dedup`). Libraries are imported inside the
functions, since the web process reads the declaration of the recipe.
"""
