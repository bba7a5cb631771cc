"""What the API and the worker must agree on. Never imports torch, Flask or each other's packages."""

__version__ = "0.1.0"
