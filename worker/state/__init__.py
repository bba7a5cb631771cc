"""The state that a step reads and changes: sequences, their KV blocks, and their visible text."""
