"""Ended answers in the store, where they outlive Redis."""
