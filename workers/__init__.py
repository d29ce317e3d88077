"""Images through a model: adapters, lenses, shards, the index, the Ray job. The only room with torch and ray."""
