"""KV memory over time: what answers will need, what is left, and its size."""
