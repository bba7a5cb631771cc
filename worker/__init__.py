"""The GPU process: pulls jobs in order and generates tokens for many of them at once."""
