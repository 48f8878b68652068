"""A page in the browser, in front of the server."""
