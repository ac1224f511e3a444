"""`diffsr upscale`."""
