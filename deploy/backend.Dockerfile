# The backend: the native part is built in the first stage, the second has neither compiler nor sources.
FROM rust:1-slim-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements/build.txt requirements/
RUN python3 -m venv /build && /build/bin/pip install --no-cache-dir --require-hashes -r requirements/build.txt
ENV PATH=/build/bin:$PATH
COPY LICENSE README.md pyproject.toml ./
COPY controller controller
COPY ingest_core ingest_core
COPY migrations migrations
COPY webmacs webmacs
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels ./controller .

FROM python:3.13-slim-bookworm
COPY requirements/run.txt /tmp/run.txt
RUN pip install --no-cache-dir --require-hashes -r /tmp/run.txt && rm /tmp/run.txt
COPY --from=build /wheels /tmp/wheels
RUN pip install --no-cache-dir --no-deps /tmp/wheels/*.whl && rm -r /tmp/wheels \
    && useradd --system --no-create-home webmacs && install --directory --owner=webmacs --mode=0700 /data
USER webmacs
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
CMD ["sh", "-c", "webmacs migrate && exec webmacs serve"]
