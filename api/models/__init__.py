"""/v1/models: what is served and whether it is loaded; loading, unloading and pinning, for operators."""
