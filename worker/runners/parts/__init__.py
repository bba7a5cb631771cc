"""What a decoder runner takes from a transformers model: its layers' parts, and its rotary positions."""
