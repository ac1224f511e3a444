"""diffsr: a diffusion image upscaler (SR3, IDM, ECDP)."""

__version__ = "0.1.0"
