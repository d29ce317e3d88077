"""A cache as it is read: its records, its arrays, and the tables beside its index."""
