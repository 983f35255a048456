"""Calibration: what is read, how, what is run, and the table that results."""
