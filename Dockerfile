# TaskFlow's images, one target for each service: docker build --target scheduler .
# The checkout's code with the lock file's versions, in a virtual environment that the final images copy.

# Any image with Python 3.11 or newer, its module venv and pip: docs/operations/docker.md says what a mirror needs.
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/taskflow
WORKDIR /src
COPY requirements.lock ./
# Versions only: with hashes pip would refuse the two distributions that are folders here.
RUN sed -e '/--hash=/d' -e 's/[[:space:]]*\\$//' requirements.lock > constraints.txt
COPY sdk ./sdk
COPY pyproject.toml README.md LICENSE ./
COPY data ./data
COPY services ./services
COPY src ./src
# The packaged worker can push jobs to AWS Batch, Kubernetes, Mesos and Ray.
RUN /opt/taskflow/bin/pip install --constraint constraints.txt './sdk[cli]' '.[aws,k8s,mesos,ray]'

FROM ${PYTHON_IMAGE} AS base
# An init: the processes that handlers start, and leave behind, are reaped. A base image may bring its own.
RUN command -v tini || \
    (apt-get update && apt-get install --yes --no-install-recommends tini && rm -rf /var/lib/apt/lists/*)
RUN useradd --system --uid 10001 --create-home --home-dir /app taskflow
ENV PATH=/opt/taskflow/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TASKFLOW_HOST=0.0.0.0 \
    TASKFLOW_LOG_FORMAT=json
WORKDIR /app
USER 10001
STOPSIGNAL SIGTERM
# -s: also where the engine's own init (docker run --init) is process 1.
ENTRYPOINT ["tini", "-s", "--"]
# Last, since it is large: an engine without BuildKit compares all files for each line that follows.
COPY --from=build /opt/taskflow /opt/taskflow

FROM base AS scheduler
EXPOSE 9003 9103
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["taskflow-server", "health", "127.0.0.1:9003"]
CMD ["taskflow-server", "scheduler"]

FROM base AS coordinator
EXPOSE 9001 9101
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["taskflow-server", "health", "127.0.0.1:9001"]
CMD ["taskflow-server", "coordinator"]

FROM base AS queue
EXPOSE 9002 9102
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["taskflow-server", "health", "127.0.0.1:9002"]
CMD ["taskflow-server", "queue"]

FROM base AS gateway
EXPOSE 8080 9180
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["taskflow-server", "health", "http://127.0.0.1:8080/healthz"]
CMD ["taskflow-server", "gateway"]

# Your tasks go on top: FROM this, COPY them into /app, set TASKFLOW_APP.
FROM base AS worker
EXPOSE 9004 9104
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["taskflow-server", "health", "127.0.0.1:9004"]
CMD ["taskflow-server", "worker"]
