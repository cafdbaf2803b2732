"""The database of observations: immutable rows whose id is the hash of their content. "Best" is a query."""
