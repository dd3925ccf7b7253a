"""`/v1/responses`: items in, items out; on top of what chat completions run on."""
