"""The page on which pictures are enlarged and looked at: a queue, before and after, saving."""
