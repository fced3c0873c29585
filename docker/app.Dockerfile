# The web image: HTTP in, JSON and files out. Holds no numerical library but NumPy, which imagecodecs, h5py and tifffile
# need in the processes that inspect uploads; tests/test_containers.py keeps it so.
#
#   docker build --file docker/app.Dockerfile --tag cytosynth-web .

FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/cytosynth
WORKDIR /build
# The libraries first, around empty packages that are removed again: a layer of their own, kept until the pins change.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY locks locks
# By hash first; then there is nothing left to fetch but what builds our own package.
RUN /opt/cytosynth/bin/pip install --require-hashes --requirement locks/app.txt
RUN mkdir app worker model && touch app/__init__.py worker/__init__.py model/__init__.py \
    && /opt/cytosynth/bin/pip install --constraint constraints.txt ".[app]" \
    && /opt/cytosynth/bin/pip uninstall --yes cytosynth-service && rm -rf app worker model build cytosynth_service.egg-info
COPY model model
COPY worker worker
COPY app app
COPY client client
# Our own packages lie apart from the libraries, so that a change of code changes a small layer only.
RUN /opt/cytosynth/bin/pip install --no-deps --target /opt/own . ./client

FROM python:3.11-slim
LABEL org.opencontainers.image.title="cytosynth web" org.opencontainers.image.licenses="BSD-3-Clause"
# A fixed id, so that web and worker own the shared volume alike; a new named volume takes over the owner of /data.
RUN groupadd --gid 10001 cytosynth \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin cytosynth \
    && install --directory --owner=10001 --group=10001 /data
COPY --from=build /opt/cytosynth /opt/cytosynth
COPY --from=build /opt/own /opt/own
# The root file system is read-only where it runs: bytecode cannot be written, /tmp is memory.
ENV PATH="/opt/own/bin:/opt/cytosynth/bin:$PATH" PYTHONPATH=/opt/own PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 CYTOSYNTH_DATA_DIR=/data
WORKDIR /data
USER 10001:10001
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=3)"]
CMD ["cytosynth", "web", "--host", "0.0.0.0", "--port", "8000"]
