"""How close a reconstruction is to the truth, and the controls that it is compared with."""
