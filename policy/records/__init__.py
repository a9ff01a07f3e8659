"""Write decisions down, read them again, draw them."""
