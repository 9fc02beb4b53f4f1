"""What a signal says before any search: which numbers are known how well, labels, starting images."""
