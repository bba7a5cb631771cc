"""What the demo model is taught: one file per group of skills, every sentence written for this project."""
