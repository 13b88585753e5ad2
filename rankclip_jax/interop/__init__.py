"""Conversion of weights to and from open_clip, OpenAI's and RankCLIP's releases, and Hugging Face."""
