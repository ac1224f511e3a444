"""Files of Hugging Face repositories; the only door to `huggingface_hub`."""
