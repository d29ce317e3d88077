"""`vlq sql`: statements of the user's own, run where they can do no harm."""
