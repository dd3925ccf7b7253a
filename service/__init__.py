"""smolserve: an OpenAI-compatible inference service for small models on llama.cpp."""

__version__ = "0.1.0"
