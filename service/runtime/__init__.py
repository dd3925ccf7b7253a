"""The API process's side of the engine: workers supervised, requests routed, text streamed."""
