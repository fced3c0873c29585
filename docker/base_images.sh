#!/usr/bin/env bash
# The two base images of the Dockerfiles and of docker-compose.yml, made from Debian's packages, for machines that reach a
# package mirror but no registry of images. Needs root, podman and debootstrap. `python -m benchmarks.containers` then runs.
#
# The host's certificates and pip configuration are copied, so that builds reach what the host reaches. Debian 12 has
# Python 3.11 and Redis 7.0.
set -euo pipefail

suite=bookworm
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates "$suite" "$place/root" >"$place/log" \
    || { tail -n 20 "$place/log" >&2; exit 1; }
ln -sf python3 "$place/root/usr/bin/python"
cp /etc/ssl/certs/ca-certificates.crt "$place/root/etc/ssl/certs/ca-certificates.crt"
for file in /etc/pip.conf "$@"; do # further files by their path, each to the same path
    if [ -f "$file" ]; then install -D --mode=644 "$file" "$place/root$file"; fi
done
rm -rf "$place/root"/var/cache/apt/archives/*.deb "$place/root"/usr/share/{doc,man,locale}
tar -C "$place/root" -c . | podman import - docker.io/library/python:3.11-slim

cat >"$place/Dockerfile" <<'END'
FROM python:3.11-slim
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends redis-server \
    && install --directory --owner=999 --group=1000 /data
VOLUME /data
END
podman build --network host --file "$place/Dockerfile" --tag docker.io/library/redis:7-alpine "$place"
