"""Which models of the table are loaded, warm or cold, and when one leaves for another."""
