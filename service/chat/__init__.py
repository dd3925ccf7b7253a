"""Messages to tokens and back: templates, SmolLM3's dialect, output parsers."""
