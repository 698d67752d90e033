"""Published figures of encoders, GPUs and networks, with their sources."""

from __future__ import annotations

from benchmarks.scale.model import Cluster, Encoder

ENCODERS = (
    Encoder("XLM-R base", 278_043_648, 192_398_592, layers=12, width=768, heads=12),
    Encoder("XLM-R large", 559_890_432, 256_531_456, layers=24, width=1024, heads=16),
)
#: bf16 peaks without sparsity; NVLink per direction: half of the published sum of both.
CLUSTERS = (
    Cluster("H100, NDR", 989e12, 494e12, 80e9, 3.35e12, 450e9, 400e9),
    Cluster("A100, HDR", 312e12, 156e12, 80e9, 2.039e12, 300e9, 200e9),
    Cluster("A100, p4d EFA", 312e12, 156e12, 40e9, 1.555e12, 300e9, 50e9),
    Cluster("H100, 100 GbE", 989e12, 494e12, 80e9, 3.35e12, 450e9, 12.5e9),
)
SOURCES = (
    (
        "H100 SXM without sparsity: 989 TFLOP/s bf16, 494 TF32, 80 GB, 3.35 TB/s; NVLink 900",
        "NVIDIA H100",
        "https://www.nvidia.com/en-us/data-center/h100/",
    ),
    (
        "A100 SXM: 312 TFLOP/s bf16, 156 TF32, 80 GB at 2,039 GB/s or 40 GB at 1,555, NVLink 600 GB/s",
        "NVIDIA A100",
        "https://www.nvidia.com/en-us/data-center/a100/",
    ),
    (
        "InfiniBand NDR: 400 Gb/s per ConnectX-7 port, one per GPU",
        "ConnectX-7 manual; DGX H100 user guide",
        "https://docs.nvidia.com/networking/display/ConnectX7VPI/Introduction",
    ),
    (
        "InfiniBand HDR: 200 Gb/s per ConnectX-6 port, one per GPU",
        "DGX A100 user guide",
        "https://docs.nvidia.com/dgx/dgxa100-user-guide/",
    ),
    (
        "p4d.24xlarge: 8 A100 of 40 GB, EFA 400 Gb/s per node",
        "AWS, P4d deep dive",
        "https://aws.amazon.com/blogs/compute/amazon-ec2-p4d-instances-deep-dive/",
    ),
    (
        "p5.48xlarge: 8 H100, EFA 3,200 Gb/s per node: 400 GB/s as `H100, NDR`, whose curve it shares",
        "AWS, P5",
        "https://aws.amazon.com/ec2/instance-types/p5/",
    ),
    (
        "100 GbE: one port of 100 Gb/s per node",
        "IEEE 802.3ba",
        "https://standards.ieee.org/ieee/802.3ba/4336/",
    ),
    (
        "Latency of rings and shares of bandwidth by protocol; 235 of 300 GB/s on A100",
        "NCCL, src/graph/tuning.cc",
        "https://github.com/NVIDIA/nccl/blob/master/src/graph/tuning.cc",
    ),
    (
        "Meaning of bus bandwidth",
        "nccl-tests",
        "https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md",
    ),
    ("Activations of a layer", "Korthikanti et al. 2022", "https://arxiv.org/abs/2205.05198"),
)
