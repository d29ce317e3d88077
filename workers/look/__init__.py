"""One image without a cache: `vlq.look` reads it in this process, `vlq look` shows it on the terminal.

Like the demo, this reads with a model and asks of what was read; it is the other place where rooms meet.
"""
