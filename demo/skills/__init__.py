"""The skills of the demo model: one file per group, every sentence written for this project."""
