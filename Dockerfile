# Build:  docker build -t tauserve --build-arg REVISION="$(git rev-parse HEAD)" .
# With the CUDA backend, for NVIDIA GPUs:  docker build -t tauserve:cuda --build-arg CUDA=1 .
# Run:    docker run --read-only -p 50051:50051 -p 9464:9464 tauserve          (tauserve:cuda with --gpus=all)
# Another model:  docker run ... -v /path/to/model:/models/mine:ro tauserve --model=/models/mine
FROM debian:bookworm-slim AS build
# 1: nvcc and cuBLASLt come from PyPI.
ARG CUDA=0
# As in most shells: ccache keeps apart what is compiled in different locales.
ENV LANG=C.UTF-8
WORKDIR /src
COPY deploy/setup.sh deploy/requirements-build.txt deploy/requirements-cuda.txt deploy/
RUN TAUSERVE_CUDA=${CUDA} deploy/setup.sh build && rm -rf /var/lib/apt/lists/* /root/.cache/pip
COPY . .
ARG REVISION=
RUN --mount=type=cache,id=tauserve-ccache,target=/root/.cache/ccache \
    cmake --preset release -DTAUSERVE_BUILD_TESTS=OFF -DTAUSERVE_CUDA=${CUDA} -DTAUSERVE_COMMIT=${REVISION} \
 && cmake --build --preset release --target tauserve tauserve-cli tauserve_sentencepiece \
 && for component in server cublaslt; do \
      DESTDIR=/image cmake --install build/release --prefix /opt/tauserve --component $component --strip || exit; \
    done \
 && deploy/image_root.sh /image

# Programs, the libraries that they name, the model, and no shell.
FROM scratch
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="Tauserve" \
      org.opencontainers.image.description="Inference server for transformers with entmax attention" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /image /
COPY LICENSE /opt/tauserve/LICENSE
COPY models/recall-9m /models/recall-9m
ENV PATH=/opt/tauserve/bin
USER 10001:10001
# Inference, metrics. The control port (50052) stays on loopback.
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["tauserve-cli", "health"]
ENTRYPOINT ["/opt/tauserve/bin/tauserve", "--listen=0.0.0.0:50051", "--metrics_listen=0.0.0.0:9464"]
CMD ["--model=/models/recall-9m"]
