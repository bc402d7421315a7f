"""`torchrun --nproc-per-node 2 -m kit.pipeline CONFIG.json`: one rank of a pipeline."""

import os
import sys
import traceback

from kit.pipeline.rank import main

try:
    main()
except Exception:
    traceback.print_exc()
    sys.stdout.flush()
    os._exit(1)  # at once: taking the interpreter down took five seconds more, on a busy machine
