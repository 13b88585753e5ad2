# docker build -t registry/rankclip --build-arg ACCELERATOR=cuda13 .
# docker run --rm --gpus all --shm-size 16g -v "$PWD:/workspace" --user "$(id -u):$(id -g)" registry/rankclip \
#     train --config demo
# ACCELERATOR is cpu, cuda12, cuda13 or tpu. Versions come from constraints/.
FROM python:3.12-slim AS build
ARG ACCELERATOR=cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/rankclip
ENV PATH=/opt/rankclip/bin:$PATH
WORKDIR /build
COPY requirements.txt constraints/python3.12.txt launch/accelerator.sh ./
RUN extra=$(sh accelerator.sh "$ACCELERATOR") \
    && pip install -c python3.12.txt -r requirements.txt gcsfs ${extra:+"jax[$extra]"}
COPY . source
RUN pip install --no-deps ./source

FROM python:3.12-slim
COPY --from=build /opt/rankclip /opt/rankclip
# Writable by any user, such as that of --user or of a cluster.
RUN useradd --uid 1000 --home-dir /workspace rankclip && mkdir -m 1777 /workspace
ENV PATH=/opt/rankclip/bin:$PATH HOME=/workspace PYTHONUNBUFFERED=1
WORKDIR /workspace
USER 1000:1000
ENTRYPOINT ["rankclip-jax"]
CMD ["--help"]
