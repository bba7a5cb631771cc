"""The keeper: a small process that holds memory by name, so that it outlives the worker that filled it."""
