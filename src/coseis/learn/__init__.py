"""A configuration in, a trained model in a folder out: what `coseis train` does."""
