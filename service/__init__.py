"""The HTTP API and the pages over caches. The only room with fastapi."""
