"""The metadata that the tables share."""

from __future__ import annotations

from sqlalchemy.orm import DeclarativeBase


class Base(DeclarativeBase):
    """The metadata that a new file is created from."""
