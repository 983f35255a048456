"""How an image becomes a tensor: the resolved transform, and what it is resolved from."""
