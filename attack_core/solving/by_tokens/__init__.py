"""The attack on transformers: one image's patches by linear equations, a batch by a descent on its tokens' errors."""
