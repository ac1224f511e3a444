"""How good a picture is: `pixel` compares numbers, `perceptual` compares what a network sees.

Every function takes pictures in [0,1], height before width.
"""
