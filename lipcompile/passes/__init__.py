"""Graph passes: one rewrite per file."""
