"""`gradsweep audit`."""
