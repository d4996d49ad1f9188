"""The database tables of the app, step by step."""

__all__: list[str] = []
