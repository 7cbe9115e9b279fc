# The images of latenight: `make image` builds target cpu, `make image TARGET=gpu` the one for NVIDIA GPUs.
# They run as any user id on a read-only root and hold no torch. CUDA comes as pinned Python packages (version 13:
# driver R580 or newer), so the base is the same for both.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS wheel
WORKDIR /src
COPY constraints/build.txt constraints/
RUN python3 -m venv /build && /build/bin/pip install --no-cache-dir --require-hashes -r constraints/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY serve serve
COPY train train
RUN /build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheel .

# The pinned libraries change seldom and come first, the wheel changes often and comes last. pip goes: nothing is
# installed later.
FROM ${BASE} AS venv-cpu
COPY constraints/cpu.txt /constraints/
RUN python3 -m venv /opt/latenight \
    && /opt/latenight/bin/pip install --no-cache-dir --require-hashes -r /constraints/cpu.txt
COPY --from=wheel /wheel /wheel
RUN /opt/latenight/bin/pip install --no-cache-dir --no-index --no-deps /wheel/*.whl \
    && /opt/latenight/bin/pip uninstall --yes setuptools pip

FROM ${BASE} AS venv-gpu
COPY constraints/gpu.txt /constraints/
RUN python3 -m venv /opt/latenight \
    && /opt/latenight/bin/pip install --no-cache-dir --require-hashes -r /constraints/gpu.txt
COPY --from=wheel /wheel /wheel
RUN /opt/latenight/bin/pip install --no-cache-dir --no-index --no-deps /wheel/*.whl \
    && /opt/latenight/bin/pip uninstall --yes setuptools pip

FROM ${BASE} AS runtime
# Inside a container the probes listen on every interface; which of them is published is the deployment's choice.
ENV PATH=/opt/latenight/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    LATENIGHT_SERVE_METRICS=0.0.0.0:9464
EXPOSE 9464
USER 10001:10001
WORKDIR /tmp
# The start (load the bundle, score the golden spectra) takes seconds on a CPU and longer where CUDA warms up.
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:9464/healthz', timeout=5)"]
ENTRYPOINT ["latenight"]
CMD ["--help"]

FROM runtime AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=venv-gpu /opt/latenight /opt/latenight

FROM runtime AS cpu
COPY --from=venv-cpu /opt/latenight /opt/latenight
