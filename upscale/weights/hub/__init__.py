"""The Hugging Face Hub: names, cache, downloads, failures."""
