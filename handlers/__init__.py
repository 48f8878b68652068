"""Request bytes -> reply bytes, for the servers."""
