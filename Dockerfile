# Build: docker build -t tauserve .     Run: docker run -p 50051:50051 -p 9464:9464 tauserve
# Another model: docker run -v /path/to/model:/models/mine:ro ... tauserve --model=/models/mine
FROM debian:bookworm-slim AS build
WORKDIR /src
COPY deploy/setup.sh deploy/requirements.txt deploy/
RUN TAUSERVE_CUDA=0 deploy/setup.sh && rm -rf /var/lib/apt/lists/*
COPY . .
RUN cmake --preset release -DTAUSERVE_BUILD_TESTS=OFF \
 && cmake --build --preset release --target tauserve tauserve-cli \
 && strip build/release/bin/tauserve build/release/bin/tauserve-cli

FROM debian:bookworm-slim
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="Tauserve" \
      org.opencontainers.image.description="Inference server for transformers with entmax attention" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# What `ldd` of the two programs and the SentencePiece plugin names.
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      libabsl20220623 libcpp-httplib0.11 libdnnl2 libfmt9 libgomp1 libgrpc++1.51 libgrpc29 libpcre2-8-0 \
      libprometheus-cpp-core1.0 libprometheus-cpp-pull1.0 libprotobuf32 libsentencepiece0 \
      libspdlog1.10 libssl3 libutf8proc2 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin tauserve
COPY --from=build /src/build/release/bin/tauserve /src/build/release/bin/tauserve-cli \
     /src/build/release/bin/libtauserve_sentencepiece.so /opt/tauserve/bin/
COPY --from=build /src/models/recall-9m /models/recall-9m
COPY LICENSE /opt/tauserve/LICENSE
ENV PATH=/opt/tauserve/bin:$PATH
USER 10001
# Inference, metrics. The control port (50052) stays on loopback.
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["tauserve-cli", "health"]
ENTRYPOINT ["/opt/tauserve/bin/tauserve", "--listen=0.0.0.0:50051", "--metrics_listen=0.0.0.0:9464"]
CMD ["--model=/models/recall-9m"]
