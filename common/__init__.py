"""Code that the API and the worker share. Never imports torch, Flask, api or worker."""

__version__ = "0.1.0"
