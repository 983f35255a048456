"""Hardened files for servers: model repositories that they read."""
