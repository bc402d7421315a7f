"""`torchrun --nproc-per-node 2 -m kit.pipeline CONFIG.json`: one rank of a pipeline."""

from kit.pipeline.rank import main

main()
