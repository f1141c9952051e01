"""Landslide polygons in; how many, how large, by which law, and how sure all of that is, out."""
