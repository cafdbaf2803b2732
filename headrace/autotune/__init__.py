"""Knobs, search, isolated workers, measurement, verification, and the database of what was observed.

`tuner.tune` fills a `db.store.Store`; `evidence.DatabaseEvidence` answers from it.
"""
