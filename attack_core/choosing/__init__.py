"""What `auto` chooses by: what speaks against each way, what each would go by, and how the loop is set."""
