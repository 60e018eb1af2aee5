# The project's image: the packages of requirements.lock without what training never reads, the code, and nothing to compile with.
# `make image` builds it. Everything in it comes from the base's digest, or from the index by hash. The stage `test` adds the test and
# lint tools; `samebits image test` builds that.
# The digest below is the one seen in public Dockerfiles (Python 3.12.14, August 2026). It was not looked up at a registry; where one is
# reached, confirm it: docker buildx imagetools inspect python:3.12-slim-bookworm
ARG BASE_IMAGE=python:3.12-slim-bookworm@sha256:a116514e19457bcb7af7efe9c3dd0b9b71e85b317694e7882a1c52aa15a78134
# What the stage `test` starts from: the stage of this name, or an image. buildah, which has no cache, is given the built image.
ARG TRAIN=train

# The environment, from the lock by hash alone. A network with a certificate authority of its own gives its bundle as the secret
# `ca`, which is mounted for this one command.
FROM ${BASE_IMAGE} AS packages
# cpu; or gpu (untested on a GPU): TensorFlow's GPU build of the same version, with CUDA's libraries from the index
ARG VARIANT=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0 LC_ALL=C.UTF-8 TZ=UTC
WORKDIR /app
COPY requirements.lock ./
COPY requirements-gpu.lock ./
COPY scripts/setup_env.py scripts/
COPY src/samebits/image/slim.py ./
COPY tools/other_tensorflow.py tools/
RUN --mount=type=secret,id=ca,target=/run/ca.pem,mode=0444 \
    if [ -s /run/ca.pem ]; then export PIP_CERT=/run/ca.pem SSL_CERT_FILE=/run/ca.pem; fi && \
    python3 scripts/setup_env.py /opt/venv && \
    if [ "$VARIANT" = gpu ]; then /opt/venv/bin/python tools/other_tensorflow.py --gpu; fi && \
    python3 slim.py /opt/venv
# Bytecode that is valid by the source's content, not by its time, made by one process in sorted order: the same bytes each time.
RUN find /opt/venv -name __pycache__ -prune -exec rm -rf {} + && \
    { /opt/venv/bin/python -m compileall -qq --invalidation-mode checked-hash /opt/venv/lib || true; }

# A stage of its own, so that a change of the code leaves the packages in the engine's cache.
FROM ${BASE_IMAGE} AS code
WORKDIR /app
COPY . ./
# User 10001 may be replaced by any other: nothing in the image needs to be written. The files get the time of this moment,
# because engines replace only times after the commit's.
RUN ln -s /opt/venv .venv && mkdir -p runs .cache && find . \( -type d -exec chmod 0755 {} + \) -o \( -type f -exec chmod 0644 {} + \) && \
    chown 10001:10001 runs .cache && find . -exec touch --no-dereference {} + && \
    echo 'samebits:x:10001:10001::/tmp:/bin/sh' >>/etc/passwd && echo 'samebits:x:10001:' >>/etc/group

# No command runs here, so that no engine leaves files of its own.
FROM ${BASE_IMAGE} AS train
COPY --from=packages /opt/venv /opt/venv
COPY --from=code /etc/passwd /etc/group /etc/
COPY --from=code /app /app
WORKDIR /app
# SAMEBITS_PACKAGES: a checkout that is mounted elsewhere, as CI services do, uses these packages without a network.
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp PYTHONDONTWRITEBYTECODE=1 \
    PYTHON=python3 SAMEBITS_PACKAGES=/opt/venv
USER 10001:10001
ENTRYPOINT ["/opt/venv/bin/python", "-m", "samebits.image.entrypoint"]
CMD [".venv/bin/samebits", "--help"]
ARG BASE_IMAGE
ARG REVISION=unknown
ARG CONTEXT_DIGEST=unknown
LABEL org.opencontainers.image.title="samebits" \
      org.opencontainers.image.description="Same seed, same bits: TensorFlow and Keras training" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      org.opencontainers.image.revision="${REVISION}" \
      samebits.context="${CONTEXT_DIGEST}"

FROM ${TRAIN} AS test
USER root
RUN --mount=type=secret,id=ca,target=/run/ca.pem,mode=0444 \
    if [ -s /run/ca.pem ]; then export PIP_CERT=/run/ca.pem SSL_CERT_FILE=/run/ca.pem; fi && \
    /opt/venv/bin/python -m ensurepip >/dev/null 2>&1 && \
    PIP_NO_CACHE_DIR=1 python3 scripts/setup_env.py --dev /opt/venv && \
    rm -rf /opt/venv.lock /tmp/* /tmp/.[!.]*
USER 10001:10001

# A build that names no stage makes the image without the test tools.
FROM train
