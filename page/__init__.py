"""A page for the browser: drop photographs, see them in colour, correct them, save them."""
