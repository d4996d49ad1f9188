"""Benchmarks of streamguard_langchain."""
