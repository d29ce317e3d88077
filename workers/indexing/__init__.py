"""From shards' readings to the index: postings, counts, and how they are merged."""
