# The project in an image that runs `make demo`. docs/containers.md says how to build and use it.
#   docker build -t contextcir:cuda .                          PyTorch as PyPI has it for Linux, with CUDA 13
#   docker build -t contextcir:cpu --build-arg TORCH=cpu .     without CUDA
FROM python:3.12-slim-bookworm

# uv's name of a PyTorch build, such as cpu or cu126; empty for the one in requirements.lock.
ARG TORCH=""
# Ids of the user in the container; what it writes to a mounted folder is theirs.
ARG UID=1000
ARG GID=1000

# git: W&B notes the commit of a run. libgomp1: OpenMP, for faiss.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git libgomp1 make \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid "${GID}" researcher \
    && useradd --uid "${UID}" --gid "${GID}" --create-home researcher \
    && install --directory --owner=researcher --group=researcher /opt/contextcir /work

USER ${UID}
WORKDIR /opt/contextcir

# .dockerignore lets through what the project runs on, and nothing else.
COPY --chown=${UID}:${GID} . .
# Downloads are not kept: they would double the size of the image. Modules are compiled here once, not at each start.
RUN PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 make install ${TORCH:+TORCH="${TORCH}"}

ENV PATH=/opt/contextcir/.venv/bin:$PATH \
    CIR_DATA=/work/datasets \
    CIR_RUNS=/work/runs
VOLUME /work
CMD ["make", "demo"]
