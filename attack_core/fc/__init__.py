"""Fully connected layers in closed form: the head, layer inputs, batch separation, the order of local steps."""
