# nemo_pi in NVIDIA's PyTorch image, whose torch, Transformer Engine and CUDA libraries stay as they are.
#
#     docker build -t nemo_pi .
#     docker run --gpus all --ipc=host -v /my/data:/data -v /my/results:/results nemo_pi \
#         python examples/extend_context.py model=llama-7b exp_manager.exp_dir=/results ...
#     enroot import -o nemo_pi.sqsh dockerd://nemo_pi        # for examples/slurm/extend_context.sbatch
ARG BASE=nvcr.io/nvidia/pytorch:25.12-py3
# The base is the one thing that whoever builds is meant to choose.
# hadolint ignore=DL3006
FROM ${BASE}

LABEL org.opencontainers.image.title="nemo_pi" \
      org.opencontainers.image.description="Context extension of RoPE GPTs with NeMo and Megatron" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

WORKDIR /opt/nemo_pi

# First what changes seldom, so that an edit of the sources does not install everything again.
COPY setup.py pyproject.toml constraints.txt ./
COPY nemo_pi/__init__.py nemo_pi/
COPY nemo_pi/kernels/csrc nemo_pi/kernels/csrc
COPY docker docker

# The image pins every package it was built with, through PIP_CONSTRAINT; that would forbid versions nemo_pi
# needs, so it is lifted for this command and replaced: hold_back.py keeps torch and all that is compiled
# against it, and takes constraints.txt for what the image lacks; where those do not go together (an older
# numpy in the image), setup.py's ranges decide. Never add `apex` here: the package of that name is not
# NVIDIA's. The image's own apex is used where there is one.
RUN python docker/hold_back.py constraints.txt > /tmp/tested.txt \
    && python docker/hold_back.py /dev/null > /tmp/held.txt \
    && export PIP_CONSTRAINT='' PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1 \
    && { python -m pip install -c /tmp/tested.txt -e ".[eval]" \
         || python -m pip install -c /tmp/held.txt -e ".[eval]"; } \
    && python docker/hold_back.py --check /tmp/held.txt \
    && rm /tmp/tested.txt /tmp/held.txt

COPY . .

# Any user may run the image (docker --user, Slurm): everything is readable, and runs write to /results.
RUN chmod -R a+rX . && install -d -m 1777 /data /results
USER 1000:1000

# Fails the build where a module cannot be imported or apex is not NVIDIA's.
RUN python docker/smoke.py

CMD ["python", "examples/extend_context.py", "--help"]
