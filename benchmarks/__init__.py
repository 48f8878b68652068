"""Speed, measured against what it replaces, in one run."""
