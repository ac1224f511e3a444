"""Many pictures: names, the way of each from file to file, what is done already, which machine."""
