# syntax=docker/dockerfile:1
# Answers questions over HTTP: neither torch nor Ray. Build it at the repository's root:
#
#     docker build -f deploy/service.Dockerfile -t REGISTRY/vlq-service:0.1.0 .
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/vlq
WORKDIR /src
COPY . .
RUN /opt/vlq/bin/pip install -c constraints.txt '.[service]'

FROM python:${PYTHON}
LABEL org.opencontainers.image.title="vlq-service" \
      org.opencontainers.image.description="VLQ over HTTP: pages and questions" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 1000 --create-home vlq
COPY --from=build /opt/vlq /opt/vlq
ENV PATH=/opt/vlq/bin:$PATH \
    PYTHONUNBUFFERED=1
USER 1000
WORKDIR /home/vlq
EXPOSE 8765
HEALTHCHECK --interval=15s --timeout=3s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8765/healthz', timeout=2)"]
ENTRYPOINT ["vlq"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8765"]
