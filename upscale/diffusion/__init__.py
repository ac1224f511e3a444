"""The mathematics of diffusion: noising laws, denoisers, samplers, tiling. Knows no network."""
