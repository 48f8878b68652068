"""The commands, and what they need beside the core; archives carry none of it."""
