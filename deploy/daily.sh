#!/bin/sh
# One day's work: import what the shop exported, prepare, train, write lists, publish. The systemd timer and the
# compose service `daily` run it. Every day has a run folder of its own; `current` is the last one published.
# It may be run again after a failure: what is finished is kept, a training goes on from its checkpoint.
set -eu

: "${AIGQ_HOME:=/var/lib/aigq}"            # tables, runs, and the store where it is embedded
: "${AIGQ_CONFIG:=/etc/aigq/shop.yaml}"    # the recipe; its dates and its tables are set here
: "${AIGQ_SOURCE:?name a log format of docs/log-formats.md}"
: "${AIGQ_EXPORT:?name the file or folder that the shop exports}"
: "${AIGQ_SYSTEM:=direct_il_sft}"          # what writes the lists
: "${AIGQ_KEEP_RUNS:=7}"

today=$(date -u +%F)
run=$AIGQ_HOME/runs/$today
export AIGQ__DATA__TABLES="$AIGQ_HOME/tables"
export AIGQ__SPLIT__VALIDATION_FROM="${AIGQ__SPLIT__VALIDATION_FROM:-$(date -u -d "$today - 14 days" +%F)}"
export AIGQ__SPLIT__TEST_FROM="${AIGQ__SPLIT__TEST_FROM:-$(date -u -d "$today - 7 days" +%F)}"

aigq import "$AIGQ_SOURCE" "$AIGQ_EXPORT" --out "$AIGQ_HOME/tables"
aigq prepare --config "$AIGQ_CONFIG" --run "$run"
case $AIGQ_SYSTEM in
  direct_*sft | think_*sft) aigq train sft --config "$AIGQ_CONFIG" --run "$run" --system "$AIGQ_SYSTEM" --resume ;;
esac
aigq generate u2q --run "$run" --system "$AIGQ_SYSTEM" --count 20
aigq publish --run "$run"

ln -sfn "runs/$today" "$AIGQ_HOME/current.new"
mv -T "$AIGQ_HOME/current.new" "$AIGQ_HOME/current"
find "$AIGQ_HOME/runs" -mindepth 1 -maxdepth 1 -type d -name '????-??-??' | sort | head -n "-$AIGQ_KEEP_RUNS" |
  xargs -r rm -rf
