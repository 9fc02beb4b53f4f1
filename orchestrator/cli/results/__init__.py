"""Commands on a results folder that is there."""
