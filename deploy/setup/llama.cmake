# Included right after the package's project(): a normal variable outweighs the cache entry that the
# package then forces to ON, so llama.cpp's `common` (argument parsing, chat templates, an HTTP client)
# is not built. Nothing in the wheel uses it, and it is the larger half of the compile.
set(LLAMA_BUILD_COMMON OFF)
