"""Stores: where the bytes of a cache lie, behind one contract."""
