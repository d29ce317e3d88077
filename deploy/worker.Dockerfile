# syntax=docker/dockerfile:1
# Reads images: Ray's head, its workers, and `vlq run`. Build it at the repository's root:
#
#     docker build -f deploy/worker.Dockerfile -t REGISTRY/vlq-worker:0.1.0 .
#
# The base is plain Python, the one that constraints.txt was solved for. PyTorch's wheels bring the CUDA libraries they
# were built with and the host brings the driver, so a CUDA base would only hold a second set; Ray's and PyTorch's own
# images hold other versions than constraints.txt, and the versions decide a reading's last bits.
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/vlq
WORKDIR /src
# TORCH_INDEX=https://download.pytorch.org/whl/cpu makes an image without CUDA, which is a tenth of the size.
ARG TORCH_INDEX=https://pypi.org/simple
COPY constraints.txt ./
RUN /opt/vlq/bin/pip install -c constraints.txt --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple \
      "$(grep '^torch==' constraints.txt)"
COPY . .
RUN /opt/vlq/bin/pip install -c constraints.txt '.[aws,cluster]'

FROM python:${PYTHON}
LABEL org.opencontainers.image.title="vlq-worker" \
      org.opencontainers.image.description="VLQ's Ray workers: images through a vision-language model into a cache" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# KubeRay's probes call wget. The head of Ray's cluster launcher starts its workers by ssh and rsync, and by boto3 at AWS.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends openssh-client rsync wget \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --create-home vlq \
 && install -d -o vlq -g vlq /models
COPY --from=build /opt/vlq /opt/vlq
ENV PATH=/opt/vlq/bin:$PATH \
    HF_HOME=/models \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    RAY_USAGE_STATS_ENABLED=0 \
    PYTHONUNBUFFERED=1
USER 1000
WORKDIR /home/vlq
# No ENTRYPOINT: Ray's cluster launcher starts the container with a shell.
CMD ["vlq", "--help"]
