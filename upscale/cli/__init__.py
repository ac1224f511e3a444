"""The command line; the only door to click and rich. Nothing here imports torch at import."""
