"""Register files and the bus that reaches them."""
