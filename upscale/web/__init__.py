"""What the web pages of diffsr share: who may come in, where they listen, their files."""
