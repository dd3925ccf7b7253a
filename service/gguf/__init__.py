"""Model files: what a GGUF file holds, whether it can be served, and files made for tests.

    header      what a file says about itself, read under limits
    smollm3     the architecture: keys, tensors, NoPE layers, special tokens
    summary     everything worth knowing about a file, as plain data
    memory      what serving a file will take
    remap       both key families in one file
    verify      checks a file before it is served
    synth       files of SmolLM3's shape with random weights

Files come from strangers: nothing here trusts a count, a length or an offset that it read.
"""
