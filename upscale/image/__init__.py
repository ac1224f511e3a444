"""Pixels and files; the only door to Pillow."""
