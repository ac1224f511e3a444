"""`diffsr humaneval`."""
