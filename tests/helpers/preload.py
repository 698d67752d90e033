"""What the server that forks workers has loaded before it forks."""

import importlib
import os
import sys
from pathlib import Path

os.environ["DS_ACCELERATOR"] = "cpu"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["GLOO_SOCKET_IFNAME"] = "lo"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # as the command line does before it imports
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

for name in (
    "deepspeed",
    "transformers.models.bert.modeling_bert",
    "hbt_dist.cli.main",
    "hbt_dist.jobs.train",
    "hbt_dist.training.train",
    "hbt_dist.training.deepspeed.engine",
):
    importlib.import_module(name)
importlib.import_module("torch").set_num_threads(1)
