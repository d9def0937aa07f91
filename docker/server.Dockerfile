# The server: web, ingest, director, conductor, publisher and worker are commands of this one image.
# It runs from a checkout (manage.py, templates/), with the versions and hashes of requirements.lock.
#   docker build -f docker/server.Dockerfile -t modelfleet-server .
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH MODELFLEET_HOME=/var/lib/modelfleet
RUN python -m venv /opt/venv \
    && useradd --system --uid 10001 --home-dir /var/lib/modelfleet modelfleet \
    && install -d -o modelfleet -g modelfleet -m 0700 /var/lib/modelfleet

WORKDIR /opt/modelfleet
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY device_client device_client
# uv from the lock first; then what pyproject.toml asks for, in the lock's versions and checked against its hashes.
RUN awk '/^uv==/ {found = 1} found {print} found && !/\\$/ {exit}' requirements.lock >/tmp/uv.lock \
    && pip install --no-cache-dir --no-deps --require-hashes -r /tmp/uv.lock \
    && uv pip install --no-cache --constraint requirements.lock -r pyproject.toml --extra server
COPY manage.py ./
COPY fleet fleet
COPY templates templates

USER modelfleet
VOLUME /var/lib/modelfleet
EXPOSE 8000 8443
CMD ["python", "manage.py", "help"]
