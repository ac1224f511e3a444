"""`diffsr generate`."""
