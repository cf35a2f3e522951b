# One file, two images: `serve` (no torch, no xgboost) and `train`.
FROM python:3.11-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 \
    NUMBA_CACHE_DIR=/tmp/numba WHITEBOARD_HOME=/data WHITEBOARD_HOST=0.0.0.0
RUN useradd --uid 10001 --create-home whiteboard && mkdir /data && chown whiteboard /data
WORKDIR /app

FROM base AS serve
COPY requirements-serve.lock .
RUN pip install --no-cache-dir --require-hashes -r requirements-serve.lock
COPY features features
COPY monitoring monitoring
COPY services services
COPY infra/docker/serve infra/docker/healthy /usr/local/bin/
USER whiteboard
EXPOSE 8080
CMD ["serve"]

FROM base AS train
# Where torch's CPU build comes from; empty takes the default index: --build-arg TORCH_INDEX_URL=
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
COPY requirements.lock infra/install_locked.sh ./
RUN sh install_locked.sh pip requirements.lock "$TORCH_INDEX_URL"
COPY pyproject.toml README.md LICENSE ./
COPY features features
COPY infra infra
COPY loadtest loadtest
COPY monitoring monitoring
COPY services services
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e .
COPY infra/docker/healthy /usr/local/bin/
USER whiteboard
ENV MPLCONFIGDIR=/tmp/matplotlib
CMD ["whiteboard", "--help"]

# Flower in an environment of its own: its pins conflict with ours.
FROM base AS flower
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
COPY requirements-federated.lock infra/install_locked.sh ./
RUN python -m venv /opt/federated \
    && sh install_locked.sh /opt/federated/bin/pip requirements-federated.lock "$TORCH_INDEX_URL"

# A bank, or the coordinator of banks: `docker compose --profile federated`.
FROM train AS bank
COPY --from=flower /opt/federated /opt/federated
USER root
RUN mkdir /meet && chown whiteboard /meet
USER whiteboard
ENV WHITEBOARD_FEDERATED_ENV=/opt/federated
