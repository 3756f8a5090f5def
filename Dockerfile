# Both images can be replaced, by a mirror's or by one built on the spot; hence their whole names. Nothing here needs
# BuildKit, so buildah and old daemons build it too.
ARG BUILDER_IMAGE=docker.io/library/rust:1.95-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

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

# The folders of the default configuration, for the user below. The key folder is nobody else's business.
RUN mkdir -p /out/run/tokenward /out/var/lib/tokenward /out/var/log/tokenward \
 && chmod 0755 /out/run/tokenward \
 && chmod 0700 /out/var/lib/tokenward /out/var/log/tokenward

FROM ${RUNTIME_IMAGE}
COPY --from=build /src/target/dist/tokenward /usr/local/bin/tokenward
COPY LICENSE /usr/share/doc/tokenward/LICENSE
COPY --from=build --chown=65532:65532 /out/run /run
COPY --from=build --chown=65532:65532 /out/var/lib /var/lib
COPY --from=build --chown=65532:65532 /out/var/log /var/log

# By number: Kubernetes' runAsNonRoot cannot judge a name.
USER 65532:65532
EXPOSE 8080 9091
# buildah and podman leave this out, with a warning, unless told `--format docker`: OCI's format has no place for it.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["/usr/local/bin/tokenward", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/tokenward"]
CMD ["serve"]
