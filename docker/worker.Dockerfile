# The worker image: the arithmetic, on the CPU, or on an NVIDIA device with docker/gpu.yml.
#
#   docker build --file docker/worker.Dockerfile --tag cytosynth-worker .
#
# TORCH_INDEX names a package index to look in as well. Left empty, torch is the registry's own build, which on Linux
# serves CPU and NVIDIA devices alike and brings gigabytes of libraries; PyTorch's CPU index gives a far smaller image.

FROM python:3.11-slim AS build
ARG TORCH_INDEX=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/cytosynth
WORKDIR /build
# The libraries first, around empty packages that are removed again: a layer of their own, kept until the pins change.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY locks locks
# By hash first; then there is nothing left to fetch but torch, by version, and what builds our own package.
RUN /opt/cytosynth/bin/pip install --require-hashes --requirement locks/worker.txt
RUN mkdir app worker model && touch app/__init__.py worker/__init__.py model/__init__.py \
    && PIP_EXTRA_INDEX_URL="$TORCH_INDEX" /opt/cytosynth/bin/pip install --constraint constraints.txt ".[worker]" \
    && /opt/cytosynth/bin/pip uninstall --yes cytosynth-service && rm -rf app worker model build cytosynth_service.egg-info
COPY model model
COPY worker worker
COPY app app
COPY client client
# Our own packages lie apart from the libraries, so that a change of code changes a small layer only.
RUN /opt/cytosynth/bin/pip install --no-deps --target /opt/own . ./client

FROM python:3.11-slim
LABEL org.opencontainers.image.title="cytosynth worker" org.opencontainers.image.licenses="BSD-3-Clause"
# A fixed id, so that web and worker own the shared volume alike; a new named volume takes over the owner of /data.
RUN groupadd --gid 10001 cytosynth \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin cytosynth \
    && install --directory --owner=10001 --group=10001 /data
COPY --from=build /opt/cytosynth /opt/cytosynth
COPY --from=build /opt/own /opt/own
# The root file system is read-only where it runs: caches of compiled kernels and of plots go to /tmp, which is memory.
ENV PATH="/opt/own/bin:/opt/cytosynth/bin:$PATH" PYTHONPATH=/opt/own PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 CYTOSYNTH_DATA_DIR=/data \
    NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /data
USER 10001:10001
VOLUME /data
# Healthy is a worker whose sign of life is in the broker: process, connection and clock are then all right.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import socket, sys; from worker.jobs import JobQueue; from worker.settings import WorkerSettings as S; sys.exit(not any(b.hostname == socket.gethostname() for b in JobQueue.connect(S().redis_url).admin.workers_alive()))"]
CMD ["python", "-m", "worker"]
