"""`diffsr train`."""
