"""What VLQ's documentation says of speed and size, measured here. `python -m benchmarks`, or `make bench`."""
