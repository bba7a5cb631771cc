"""Uploaded files and results: their bytes anywhere that fsspec reaches, their records in SQL."""
