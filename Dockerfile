# mmsr-serve on CPUs. The same with an NVIDIA GPU: Dockerfile.cuda.
#   docker build -t mmsr-serve .
#   docker run -p 50051:50051 -v "$PWD/repository:/repository:ro" -v "$PWD/secrets:/secrets:ro" mmsr-serve \
#     --tls-cert /secrets/tls.crt --tls-key /secrets/tls.key --tokens /secrets/tokens.toml
# It listens for everybody, so it starts with TLS and tokens only, or with --insecure.
# Pinned by tag: put the digest that your registry gives behind it (@sha256:...).
FROM python:3.12.12-slim-bookworm AS build
WORKDIR /src
COPY .ci/requirements-build.txt .ci/requirements-cpu.txt .ci/
RUN python -m venv /opt/mmsr && python -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes -r .ci/requirements-build.txt
COPY pyproject.toml README.md LICENSE ./
COPY training/mmsr training/mmsr
COPY export/mmsr export/mmsr
COPY engine/mmsr engine/mmsr
COPY proto/mmsr proto/mmsr
# What serving needs and no more, no torch; every file is compared with its hash in the lock.
RUN /opt/mmsr/bin/pip install --no-cache-dir --require-hashes -r .ci/requirements-cpu.txt \
    && /opt/build/bin/hatchling build -t wheel -d /wheel \
    && /opt/mmsr/bin/pip install --no-cache-dir --no-deps /wheel/*.whl \
    && /opt/mmsr/bin/pip check

FROM python:3.12.12-slim-bookworm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin mmsr
COPY --from=build /opt/mmsr /opt/mmsr
ENV PATH=/opt/mmsr/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MMSR_SERVE_SERVER_REPOSITORY=/repository \
    MMSR_SERVE_SERVER_HOST=0.0.0.0 \
    MMSR_SERVE_OBSERVE_LOG_FORMAT=json \
    MMSR_SERVE_OBSERVE_METRICS_HOST=0.0.0.0 \
    MMSR_SERVE_OBSERVE_METRICS_PORT=9464
USER 10001:10001
EXPOSE 50051 9464
# Not the port that serves: overloaded, it answers late, and would be killed for it. This one has its own thread.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-m", "mmsr.engine.health_probe", "http://127.0.0.1:9464/readyz"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["mmsr-serve"]
