"""The only package that imports llama_cpp: typed objects that own their handles.

Return codes become `LlamaError`; a failed GGML assertion still ends the process, which is why a
worker is a process.
"""
