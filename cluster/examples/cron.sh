#!/bin/sh
# Plain cron, on a machine with GPUs or on the head of a cluster:
#   0 1 * * *  /srv/label/cluster/examples/cron.sh --input s3://photos/shards --output s3://labels/tables >> /var/log/label.log 2>&1
# Two tries more where that helps, 22 hours in all. cron mails what is written to stderr: only what a person must see.
set -u
here=$(cd "$(dirname "$0")/../.." && pwd)
label=${LABEL_IMAGES:-$here/.venv/bin/label-images}
night=night-$(date -u +%F)
summary=${SUMMARIES:-$here}/$night.json
for try in 1 2 3; do
  timeout --signal=TERM --kill-after=60 22h "$label" run --run-name "$night" --summary "$summary" "$@" 2>&1
  code=$?
  case $code in
    0|4|5) exit 0 ;;                       # labelled; or another run writes; or there is nothing to label
    1|124|130|143) sleep "${RETRY_S:-600}" ;;  # the next try does what is missing
    *) break ;;                            # wrong usage, or too many rejected images
  esac
done
echo "$night: exit $code, see $summary" >&2
exit "$code"
