# An image with hbt_dist in the versions of constraints.txt.
#
#   docker build --tag hbt-dist:cpu .
#   docker build --tag hbt-dist:gpu --build-arg FLAVOUR=gpu .
#
# The CPU image is smaller with --build-arg PIP_EXTRA_INDEX_URL=ADDRESS, the address of PyTorch's CPU wheels.
# There is no entry point, because `ray up` and KubeRay start a shell in the image: docs/install.md has the commands.

FROM python:3.11-slim

ARG FLAVOUR=cpu
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# A compiler for torch.compile, Triton kernels and DeepSpeed's optimizer in host memory; wget for KubeRay's probes;
# ssh and rsync for `ray up`.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ openssh-client rsync wget \
    && rm -rf /var/lib/apt/lists/*

# torch in a layer of its own: it is the largest part, and changes least.
COPY constraints.txt /opt/hbt_dist/
RUN pip install -c /opt/hbt_dist/constraints.txt torch numpy wheel

COPY . /opt/hbt_dist/
RUN pip install -c /opt/hbt_dist/constraints.txt "/opt/hbt_dist[$FLAVOUR]"

RUN useradd --create-home --uid 1000 trainer && install --directory --owner trainer /run_files
USER trainer
WORKDIR /run_files

# Versions, imports, collectives and the gradient of a tiny batch; a problem ends the build.
RUN hbt-dist doctor

CMD ["hbt-dist", "--help"]
