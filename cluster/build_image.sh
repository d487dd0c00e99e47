#!/bin/sh
# Build the image of cluster/Dockerfile with docker, podman or buildah: the first of them that works on this machine.
#   cluster/build_image.sh REGISTRY/label:0.1.0-cuda [flags of `build`, such as --build-arg EXTRAS=gcs]
set -eu
image=$1
shift
cd "$(dirname "$0")/.."
for tool in docker podman buildah; do
  if "$tool" info >/dev/null 2>&1; then
    echo "$tool build $image" >&2
    [ "$tool" != buildah ] || set -- --layers "$@"  # without it, each change of the code makes all of the image anew
    exec "$tool" build "$@" -f cluster/Dockerfile -t "$image" .
  fi
done
echo "error: neither docker nor podman nor buildah works on this machine." >&2
exit 2
