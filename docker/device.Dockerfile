# A device: the client with ONNX Runtime and nothing of the server.
#   docker build -f docker/device.Dockerfile -t modelfleet-device .
#   docker run -v device:/var/lib/modelfleet-device modelfleet-device --help
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --system --uid 10002 --home-dir /var/lib/modelfleet-device device \
    && install -d -o device -g device -m 0700 /var/lib/modelfleet-device

COPY requirements.lock /tmp/requirements.lock
COPY device_client /tmp/device_client
RUN awk '/^uv==/ {found = 1} found {print} found && !/\\$/ {exit}' /tmp/requirements.lock >/tmp/uv.lock \
    && pip install --no-cache-dir --no-deps --require-hashes -r /tmp/uv.lock \
    && uv pip install --system --no-cache --constraint /tmp/requirements.lock "/tmp/device_client[onnx,tensor]" \
    && rm -rf /tmp/device_client /tmp/requirements.lock /tmp/uv.lock

USER device
WORKDIR /var/lib/modelfleet-device
VOLUME /var/lib/modelfleet-device
ENTRYPOINT ["modelfleet-device"]
