"""Commands for `manage.py`: report, verify, mirror."""

__all__: list[str] = []
