# syntax=docker/dockerfile:1
#
#   docker build -t nullpass .
#   docker run --rm --read-only -v nullpass-data:/data -p 127.0.0.1:8080:8080 \
#     -e NULLPASS__UPSTREAM=http://app:3000 -e NULLPASS__SERVER__PUBLIC_URL=https://app.example.com nullpass
#
# The container listens on 0.0.0.0 without TLS. That is a start error unless `public_url` says that browsers arrive by
# https (something in front ends TLS), or a certificate is configured, or `danger_plain_http` is set: so set
# NULLPASS__SERVER__PUBLIC_URL, or mount a file at /etc/nullpass/nullpass.toml that does.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Linked statically against glibc, so that the run stage needs no library at all. `--target` keeps the flag away from
# build scripts and procedural macros, which can't be linked like that.
# The second flag: randomness by the system call itself, which a static C library does not offer for looking up.
ENV RUSTFLAGS="-C target-feature=+crt-static --cfg getrandom_backend=\"linux_getrandom\""
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    target="$(rustc --print host-tuple)" \
    && cargo build --release --locked --bin nullpass --target "$target" \
    && install -D -m 0555 "target/$target/release/nullpass" /out/nullpass \
    && install -d -m 0700 /out/data

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/nullpass /nullpass
# A new volume takes over the owner of the folder that it covers.
COPY --from=build --chown=65532:65532 /out/data /data
# The last one is for glibc: the buffers of the store's log, 512 KiB each, go back to the system.
ENV NULLPASS__SERVER__LISTEN=0.0.0.0:8080 \
    NULLPASS__STORAGE__PATH=/data \
    MALLOC_MMAP_THRESHOLD_=262144
USER 65532:65532
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8080
# Asks the admin listener, which stays on the container's own loopback.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 CMD ["/nullpass", "health"]
ENTRYPOINT ["/nullpass"]
CMD ["serve"]
