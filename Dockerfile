# syntax=docker/dockerfile:1
FROM python:3.11-slim AS build
# By default torch is what requirements.lock pins, with CUDA. `--build-arg TORCH_BACKEND=cpu` takes the same version
# built for processors only: gigabytes less, from PyTorch's own index, whose hashes the lock does not hold.
ARG TORCH_BACKEND=
WORKDIR /src
ENV VIRTUAL_ENV=/venv PATH=/venv/bin:$PATH UV_LINK_MODE=copy PIP_NO_CACHE_DIR=1
COPY requirements.bootstrap.lock requirements.lock ./
RUN python -m venv /venv \
    && pip install --disable-pip-version-check --require-hashes -r requirements.bootstrap.lock \
    && if [ -n "$TORCH_BACKEND" ]; then \
    uv pip install --no-cache --torch-backend "$TORCH_BACKEND" "$(grep -o '^torch==[0-9.]*' requirements.lock)"; fi
COPY pyproject.toml README.md ./
COPY models models
COPY streams streams
# The lock constrains versions and hashes; what only development needs stays out.
RUN uv pip install --no-cache --constraint requirements.lock --build-constraint requirements.lock . \
    && uv pip uninstall uv pip

FROM python:3.11-slim
COPY --from=build /venv /venv
# A named volume at /model takes over its owner. Everything else may be read-only but /tmp.
RUN useradd --uid 10001 --no-create-home demur && install --directory --owner demur /model
USER demur
WORKDIR /tmp
ENV PATH=/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONSAFEPATH=1
EXPOSE 8321
ENTRYPOINT ["demur"]
CMD ["worker"]
