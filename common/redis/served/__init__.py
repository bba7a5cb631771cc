"""What is served besides models."""
