"""`diffsr bench`."""
