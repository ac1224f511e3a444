"""Weights: the lists of them, a name -> a verified file -> tensors, what goes to the Hub."""
