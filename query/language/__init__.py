"""The language: text -> nodes -> bound tables -> one statement of SQL."""
