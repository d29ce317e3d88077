"""The Python side: a corpus on a disk, in a bucket, or behind a service."""
