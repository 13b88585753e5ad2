"""Search of a prepared dataset by text or image with a trained model."""
