"""The catalogue of models, and how their files get here whole."""
