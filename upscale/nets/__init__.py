"""Networks: they know no sampler, no file and no device."""
