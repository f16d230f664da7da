"""Gradients on encrypted residuals: a feature holder's column sums without the labels, and without its columns.

Pure protocol maths, both sides beside each other: no I/O, no clock, randomness passed in.
"""
