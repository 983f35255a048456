"""Certificates (a stand-in until the core of issue 8 is merged)."""
