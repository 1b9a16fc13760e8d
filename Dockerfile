# facereel in a container. docs/how-to/docker.md explains how to build and run it.
#
#   docker build -t facereel .                                      FAISS for the CPU
#   docker build -t facereel:gpu --build-arg ACCELERATOR=gpu .      FAISS for CUDA
#
# Every stage is built on BASE, which must have Python 3.11 to 3.13 with pip. Nothing is compiled: all dependencies are
# wheels.
ARG BASE=python:3.12-slim

# The dependencies without facereel: they change rarely and make up most of the image's size.
FROM ${BASE} AS packages
# cpu or gpu: the extra that installs FAISS. PyTorch's wheel on PyPI includes CUDA in both cases; TORCH_INDEX sets a
# package index with another wheel.
ARG ACCELERATOR=cpu
ARG TORCH_INDEX=""
WORKDIR /build
# Constraints for build dependencies: older versions of pip read the first name, newer ones the second.
ENV PIP_CONSTRAINT=/build/constraints.txt PIP_BUILD_CONSTRAINT=/build/constraints.txt PIP_NO_CACHE_DIR=1
COPY constraints.txt pyproject.toml README.md LICENSE ./
# An empty package is installed for its dependencies, then removed again. Files that are useless without a compiler
# (headers, static libraries, Triton), the packages' tests, and the landmark networks of face-recognition-models, of
# which only the face network is read, are deleted.
RUN mkdir -p src/facereel configs && touch src/facereel/__init__.py \
    && python -m venv --without-pip /opt/facereel \
    && python -m pip --python /opt/facereel/bin/python install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
        ".[${ACCELERATOR},demo,heif,pretrained,web]" \
    && python -m pip --python /opt/facereel/bin/python uninstall --yes facereel triton \
    && find /opt/facereel -name '*.a' -delete \
    && find /opt/facereel -name 'shape_predictor_*.dat' -delete \
    && find /opt/facereel/lib -type d \( -name include -o -name tests \) -prune -exec rm -r {} +

FROM ${BASE} AS wheel
WORKDIR /build
ENV PIP_CONSTRAINT=/build/constraints.txt PIP_BUILD_CONSTRAINT=/build/constraints.txt PIP_NO_CACHE_DIR=1
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY src src
COPY configs configs
RUN python -m pip wheel --no-deps --wheel-dir /dist .

FROM ${BASE}
COPY --from=packages /opt/facereel /opt/facereel
# A separate layer, so that a change in facereel does not copy gigabytes.
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    python -m pip --python /opt/facereel/bin/python install --no-cache-dir --no-deps --no-index /dist/*.whl

# Any user may write to /out, since docker run --user can choose any; a mounted volume keeps its own owner.
RUN useradd --uid 10001 --no-create-home --home-dir /tmp facereel && mkdir /data /out && chmod 1777 /out
COPY docker/healthcheck.py /opt/healthcheck.py

ARG VERSION="0.1.0"
ARG REVISION=""
ARG SOURCE=""
LABEL org.opencontainers.image.title="facereel" \
      org.opencontainers.image.description="Face videos and face images as short binary codes in one Hamming space" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"

# HOME and its caches are in /tmp, since the root file system may be read-only. USER is set because torch reads the user
# name, and the user may be unknown to the system. Bytecode was written when the packages were installed. FACEREEL_COMMIT
# is recorded with every result, since there is no git checkout.
ENV PATH=/opt/facereel/bin:$PATH \
    HOME=/tmp \
    USER=facereel \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video \
    FACEREEL_COMMIT=${REVISION}

WORKDIR /out
USER 10001:10001
EXPOSE 7860
# Ctrl-C, which every command of facereel handles. SIGTERM is not delivered to a first process without a handler.
STOPSIGNAL SIGINT
# Requests the page if the container serves it. A container with any other command is healthy while it runs.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "/opt/healthcheck.py"]
ENTRYPOINT ["facereel"]
CMD ["--help"]
