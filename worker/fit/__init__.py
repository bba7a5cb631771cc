"""What of a model would fit on a machine, by arithmetic: for `omni fit`."""
