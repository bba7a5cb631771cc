"""/api: Ollama's own API, for clients that speak no other."""
