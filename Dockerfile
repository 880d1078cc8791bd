# The image of mirror-sidecar: one static program, the public certificate authorities, nothing else.
# `make image` builds it; `make image-oci` builds what the last stage says without a container engine.
#
# The build stage runs on the builder's own architecture and compiles for TARGETARCH: nothing is emulated.
FROM --platform=$BUILDPLATFORM docker.io/library/rust:1.95.0-slim-bookworm@sha256:d7482085ff5b415f84dba5647ae71606650bdef00db7aeb69f4b3d170c3e4082 AS build
ARG TARGETARCH
WORKDIR /image-mirror
COPY . .
ENV CARGO_TARGET_DIR=/build
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/build,id=build-$TARGETARCH,sharing=locked \
    ./publish/image-root.sh "$TARGETARCH" /image

FROM scratch
ARG VERSION
ARG REVISION
ARG CREATED
LABEL org.opencontainers.image.title="mirror-sidecar" \
      org.opencontainers.image.description="Copies the images of a Kubernetes cluster to a backup registry and answers the image-mirror policy" \
      org.opencontainers.image.source="https://github.com/image-mirror/image-mirror" \
      org.opencontainers.image.url="https://github.com/image-mirror/image-mirror" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="image-mirror maintainers" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
COPY --from=build /image/ /
USER 65532:65532
ENTRYPOINT ["/mirror-sidecar"]
