"""`diffsr weights`."""
