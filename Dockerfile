# smolserve's image: BACKEND=cpu (the default) or cuda.
#
#   docker build -t smolserve .
#   docker build -t smolserve:cuda --build-arg BACKEND=cuda .
#
# Both stages are the same distribution, so what the first compiles finds its libraries in the second.
ARG BACKEND=cpu

FROM ubuntu:24.04 AS build-cpu
FROM nvidia/cuda:12.8.1-devel-ubuntu24.04 AS build-cuda
FROM ubuntu:24.04 AS run-cpu
FROM nvidia/cuda:12.8.1-runtime-ubuntu24.04 AS run-cuda

# hadolint ignore=DL3006
FROM build-${BACKEND} AS build
# The distribution's packages are not pinned: their fixes are wanted.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY requirements*.txt pyproject.toml README.md LICENSE ./
COPY deploy/setup deploy/setup
COPY service/__init__.py service/__init__.py

# The image must run elsewhere. On x86-64 it has ggml's CPU code for every generation of CPUs, from the first
# to those with AVX-512 and AMX, and takes what suits when it starts; CUDA is loaded then as well, since no driver
# is here. PORTABLE=0 builds for the CPU that builds, and then CUDA needs a driver here.
ARG PORTABLE=1
# A100, RTX 30, RTX 40, H100 and H200; newer ones compile the last at their first start.
ARG CUDAARCHS="80;86;89;90"
ARG BACKEND
RUN --mount=type=cache,target=/root/.cache,id=smolserve-${BACKEND} \
    SMOLSERVE_BACKEND=${BACKEND} SMOLSERVE_PORTABLE=${PORTABLE} CUDAARCHS=${CUDAARCHS} \
    python3 -m deploy.setup

# hadolint ignore=DL3006
FROM run-${BACKEND}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libgomp1 libstdc++6 python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home smolserve \
    && install -d -o smolserve -g smolserve /models /state /kv
WORKDIR /app
COPY --from=build /app/.venv .venv
COPY models/catalog.toml models/catalog.toml
COPY service service

ARG BACKEND
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    SMOLSERVE_BACKEND=${BACKEND} \
    SMOLSERVE_HOST=0.0.0.0 \
    SMOLSERVE_PORT=8000 \
    SMOLSERVE_MODELS_DIR=/models \
    SMOLSERVE_STATE_DIR=/state \
    SMOLSERVE_CACHE__DISK_DIR=/kv
USER 10001
VOLUME ["/models", "/state", "/kv"]
EXPOSE 8000
STOPSIGNAL SIGTERM
# Alive, not ready: a worker that loads or restarts must not get the container killed.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['SMOLSERVE_PORT'] + '/health/live', timeout=4)"]
CMD ["smolserve", "serve"]
