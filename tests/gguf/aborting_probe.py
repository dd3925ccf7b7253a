"""Dies as llama.cpp does when one of its assertions fails: after the first check, by SIGABRT."""

import os
import sys

if __name__ == "__main__":
    sys.stdout.write('{"name": "values", "outcome": "passed", "detail": "sound"}\n')
    sys.stdout.flush()
    sys.stderr.write("GGML_ASSERT(n_embd_head == n_rot) failed\n")
    sys.stderr.flush()
    os.abort()
