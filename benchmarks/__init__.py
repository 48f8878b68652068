"""Speed, memory and quality, compared within one run."""
