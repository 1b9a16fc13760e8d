# facereel on the CPU: docker build -t facereel . && docker run --rm -v "$PWD/out:/out" facereel demo --out /out
FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /opt/facereel
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY src src
COPY configs configs
RUN /opt/facereel/bin/pip install --no-cache-dir --constraint constraints.txt '.[cpu,demo]'

FROM python:3.12-slim
COPY --from=build /opt/facereel /opt/facereel
RUN useradd --create-home facereel && mkdir /out && chown facereel /out
USER facereel
WORKDIR /home/facereel
ENV PATH=/opt/facereel/bin:$PATH MPLCONFIGDIR=/tmp/matplotlib
ENTRYPOINT ["facereel"]
CMD ["--help"]
