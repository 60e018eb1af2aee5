"""Writes runs as one HTML page."""
