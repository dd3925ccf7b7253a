"""KV memory as pure policy: size classes of slots, what idle ones still hold, and the store.

Nothing here touches llama.cpp. Each decision is a slot operation that the engine carries out.
"""
