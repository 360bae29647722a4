"""The feature bank: what the frozen part of a network answers, kept between runs under all that the answer depends on.

`shelf` keeps rows of one kind on disk, `store` all shelves within a budget, `keys` says what a row depends on, `fill`
computes what is missing and `features` hands out what training asks for. `shelf`, `store` and `listing` do without
TensorFlow.
"""
