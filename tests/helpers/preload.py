"""What the server that forks workers has loaded before it forks."""

import os
import sys
from pathlib import Path

os.environ["DS_ACCELERATOR"] = "cpu"
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import deepspeed  # noqa: E402, F401
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers.models.bert import modeling_bert  # noqa: E402, F401

import hbt_dist.cli  # noqa: E402
import hbt_dist.jobs  # noqa: E402
import hbt_dist.training.trainer  # noqa: E402

transformers.AutoTokenizer  # noqa: B018
torch.set_num_threads(1)
