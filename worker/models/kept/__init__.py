"""Models whose weights outlive the worker: under which name, and how they are loaded again."""
