# Every image can be replaced, by a mirror's or by one built on the spot; hence their whole names. Nothing here needs BuildKit, so
# buildah and old daemons build it too; a daemon of before BuildKit builds all stages above the one that is wanted, wanted or not.
#
# Targets: none for the image; `init` for the container that writes a pod's network rules; `prebuilt` and `prebuilt-init` for the same
# two around a program that is built already, as CI makes them (tests/image/run.py).
ARG BUILDER_IMAGE=docker.io/library/rust:1.95-bookworm
ARG DEBIAN_IMAGE=docker.io/library/debian:bookworm-slim

# What every image of the program says of itself. On nothing: deploy/image/root.sh brings the few files that it needs.
FROM scratch AS settings
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tokenward" \
      org.opencontainers.image.description="An egress proxy that lets AI agents call APIs without ever holding a credential." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# By number: Kubernetes' runAsNonRoot cannot judge a name.
USER 65532:65532
EXPOSE 8080 9091
# buildah and podman leave this out, with a warning, unless told `--format docker`: OCI's format has no place for it.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["/usr/local/bin/tokenward", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/tokenward"]
CMD ["serve"]

FROM settings AS prebuilt
# An archive with owners, which ADD unpacks. LICENSE is for builders that come by on their way to another stage.
ARG ROOT=LICENSE
ADD ${ROOT} /

# Debian, for `nft` and whatever it needs: the names of protocols are netbase's. This one is root in its container: it has NET_ADMIN for one command and ends.
FROM ${DEBIAN_IMAGE} AS rules
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tokenward-init" \
      org.opencontainers.image.description="Writes the rules that send a pod's traffic to tokenward." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update -qq \
 && apt-get install -qq -y --no-install-recommends netbase nftables \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
USER 0:0
ENTRYPOINT ["/usr/local/bin/tokenward"]
CMD ["netfilter", "apply", "--shape", "sidecar", "--exempt-gid", "65532"]

FROM rules AS prebuilt-init
ARG BINARY=LICENSE
COPY ${BINARY} /usr/local/bin/tokenward

FROM ${BUILDER_IMAGE} AS build
WORKDIR /src

# Dependencies alone, so that a change of our source does not build OpenSSL and AWS-LC again.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
RUN mkdir src \
 && : > src/lib.rs \
 && echo 'fn main() {}' > src/main.rs \
 && cargo build --locked --profile dist --no-default-features \
 && rm -r src

# Cargo compares times, and a COPY may carry older ones than the stand-ins above.
COPY src src
RUN touch src/lib.rs src/main.rs \
 && cargo build --locked --profile dist --no-default-features

COPY LICENSE ./
COPY deploy/image deploy/image
RUN deploy/image/sbom.py > tokenward.cdx.json \
 && deploy/image/root.sh target/dist/tokenward tokenward.cdx.json LICENSE /out

FROM rules AS init
COPY --from=build /src/target/dist/tokenward /usr/local/bin/tokenward

FROM settings
COPY --from=build /out/root /
COPY --from=build --chown=65532:65532 /out/own/run /run
COPY --from=build --chown=65532:65532 /out/own/lib /var/lib
COPY --from=build --chown=65532:65532 /out/own/log /var/log
