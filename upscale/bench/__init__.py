"""Measuring methods on folders of pictures: `run` makes rows, `report` makes tables of them."""
