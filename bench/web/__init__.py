"""The web adapters measured through a real server: cost, overload, leaving readers, readers that freeze."""
