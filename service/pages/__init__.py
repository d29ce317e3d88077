"""Pages: HTML that needs nothing beside itself."""
