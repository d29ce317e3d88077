"""The cache's schema and its reader, the language and its engine. Needs neither torch nor ray nor fastapi."""
