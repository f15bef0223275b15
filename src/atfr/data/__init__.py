"""Data sets: lists of labelled videos, the torch data set over them, and the generated sample action set."""
