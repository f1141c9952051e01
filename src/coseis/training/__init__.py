"""Labelled regions in, a trained model out: draws, patches, the feed and the training loop."""
