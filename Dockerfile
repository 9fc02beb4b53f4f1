# gradsweep with everything it needs, at the versions of requirements/run.txt; docs/containers.md has the commands.
#
#   BASE_IMAGE       a Python 3.11 image of Debian 12; name one by digest to pin it
#   TORCH_INDEX_URL  an index of CPU wheels for torch and torchvision; unset, the image holds PyTorch's CUDA build.
#                    Put no password into it: build arguments are no place for secrets.
#   GIT_COMMIT       recorded in every row of results (the image has no .git)

ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG TORCH_INDEX_URL=
WORKDIR /src
COPY requirements/run.txt requirements/run.txt
COPY docker/install.sh docker/install.sh
RUN --mount=type=cache,target=/var/cache/pip PIP_CACHE_DIR=/var/cache/pip docker/install.sh /opt/gradsweep requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY fl_core fl_core
COPY defenses defenses
COPY attack_core attack_core
COPY orchestrator orchestrator
COPY gradsweep gradsweep
RUN python -m pip --python /opt/gradsweep/bin/python install \
    --no-cache-dir --no-deps --no-build-isolation --disable-pip-version-check . \
    && /opt/gradsweep/bin/gradsweep doctor

FROM ${BASE_IMAGE}
RUN groupadd --gid 10001 gradsweep \
    && useradd --no-log-init --uid 10001 --gid 10001 --home-dir /tmp --no-create-home gradsweep \
    && install -d -o 10001 -g 10001 /gradsweep /gradsweep/data /gradsweep/results
COPY --from=build /opt/gradsweep /opt/gradsweep
COPY --chmod=0755 docker/entrypoint.sh /usr/local/bin/gradsweep-container
COPY sweeps /gradsweep/sweeps
WORKDIR /gradsweep

# The root may be read-only: whatever libraries keep for themselves goes under /tmp, LPIPS weights under data.
# Ray starts no cluster without a token in this mode, and reports nothing to anybody.
ENV PATH=/opt/gradsweep/bin:$PATH \
    HOME=/tmp \
    USER=gradsweep \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/matplotlib \
    TORCH_HOME=/gradsweep/data/torch \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0

USER 10001:10001
# A node of a cluster is healthy while its Ray answers; a sweep or report has no health but its exit code.
HEALTHCHECK --interval=60s --timeout=30s --start-period=180s --retries=3 CMD ["gradsweep-container", "health"]
ENTRYPOINT ["gradsweep-container"]
CMD ["help"]

ARG TORCH_INDEX_URL=
ARG TORCH_GIVEN=${TORCH_INDEX_URL:+given}
ARG GIT_COMMIT=
ENV GIT_COMMIT=${GIT_COMMIT}
LABEL org.opencontainers.image.title="gradsweep" \
      org.opencontainers.image.description="Tuned gradient-inversion attacks against federated-learning defenses" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="${GIT_COMMIT}" \
      gradsweep.torch-index="${TORCH_GIVEN:-default, CUDA build}"
