#!/bin/sh
# One day's work: import what the shop exported and what the service logged, prepare, train, write lists, publish.
# The systemd timer and the compose service `daily` run it. Every day has a run folder of its own; `current` is
# the last one published.
# It may be run again after a failure: what is finished is kept, a training goes on from its checkpoint.
set -eu

: "${AIGQ_HOME:=/var/lib/aigq}"            # tables, runs, and the store where it is embedded
: "${AIGQ_CONFIG:=/etc/aigq/shop.yaml}"    # the recipe; its dates and its tables are set here
: "${AIGQ_EXPORT=}"                        # the file or folder that the shop exports; empty: the event log has it all
: "${AIGQ_LOG=}"                           # the event log of the service; empty: it is not learned from
[ -n "$AIGQ_EXPORT$AIGQ_LOG" ] || : "${AIGQ_EXPORT:?name the file or folder that the shop exports, or AIGQ_LOG}"
[ -z "$AIGQ_EXPORT" ] || : "${AIGQ_SOURCE:?name a log format of docs/log-formats.md}"
: "${AIGQ_COLUMNS=}"                       # the column map, where AIGQ_SOURCE is files
: "${AIGQ_SYSTEM:=direct_il_sft}"          # what writes the lists: a generator, or any row of the table
: "${AIGQ_THINK=think_il_sft}"             # what connects triggers and queries (x2q); empty: nothing does
: "${AIGQ_CONTINUE=}"                      # 1: train on from the models of the run before; empty: begin anew
: "${AIGQ_KEEP_RUNS:=7}"

today=$(date -u +%F)
run=$AIGQ_HOME/runs/$today
export AIGQ__DATA__TABLES="$AIGQ_HOME/tables"
export AIGQ__SPLIT__VALIDATION_FROM="${AIGQ__SPLIT__VALIDATION_FROM:-$(date -u -d "$today - 14 days" +%F)}"
export AIGQ__SPLIT__TEST_FROM="${AIGQ__SPLIT__TEST_FROM:-$(date -u -d "$today - 7 days" +%F)}"

train() { # a generator, after those that it starts from; other rows of the table learn when they are asked
  case $1 in
    direct_*grpo) train direct_il_sft ;;
    think_*grpo) train think_il_sft ;;
    think_il_sft | think_sft_ranked) train direct_il_sft ;;
  esac
  case $1 in
    *_grpo) aigq train grpo --config "$AIGQ_CONFIG" --run "$run" --system "$1" --resume ;;
    direct_*sft* | think_*sft*) aigq train sft --config "$AIGQ_CONFIG" --run "$run" --system "$1" --resume ;;
  esac
}

if [ -n "$AIGQ_EXPORT" ]; then
  aigq import "$AIGQ_SOURCE" "$AIGQ_EXPORT" ${AIGQ_COLUMNS:+--columns "$AIGQ_COLUMNS"} --out "$AIGQ_HOME/tables"
fi
case $AIGQ_LOG in sqlite:*)
  if [ -n "$AIGQ_EXPORT" ] && [ ! -e "${AIGQ_LOG#sqlite:}" ]; then
    AIGQ_LOG= # before the first start of the service there is no file
  fi ;;
esac
if [ -n "$AIGQ_LOG" ] && [ -n "$AIGQ_EXPORT" ]; then # the export has the searches, clicks and purchases
  aigq import log --hints-only --config "$AIGQ_CONFIG" --out "$AIGQ_HOME/tables"
elif [ -n "$AIGQ_LOG" ]; then
  aigq import log --config "$AIGQ_CONFIG" --out "$AIGQ_HOME/tables"
fi
if [ -n "$AIGQ_CONTINUE" ]; then # the run remembers where it began, so that it can be started again
  last=$(readlink -f "$AIGQ_HOME/current" || true)
  mkdir -p "$run"
  if [ -d "$last" ] && [ "$last" != "$(readlink -f "$run")" ] && [ ! -L "$run/before" ]; then
    ln -s "$last" "$run/before"
  fi
  if [ -d "$run/before/models/$AIGQ_SYSTEM" ]; then
    export AIGQ__GENERATOR__START="$run/before/models/$AIGQ_SYSTEM"
  fi
  if [ -d "$run/before/models/ctr" ]; then
    export AIGQ__CTR__START="$run/before/models/ctr"
  fi
fi
aigq prepare --config "$AIGQ_CONFIG" --run "$run"
aigq train ctr --config "$AIGQ_CONFIG" --run "$run" --resume
train "$AIGQ_SYSTEM"
train "$AIGQ_THINK"
aigq generate u2q --run "$run" --system "$AIGQ_SYSTEM" --count 20
if [ -n "$AIGQ_THINK" ]; then
  aigq generate x2q --run "$run" --system "$AIGQ_THINK"
fi
aigq publish --run "$run"

ln -sfn "runs/$today" "$AIGQ_HOME/current.new"
mv -T "$AIGQ_HOME/current.new" "$AIGQ_HOME/current"
find "$AIGQ_HOME/runs" -mindepth 1 -maxdepth 1 -type d -name '????-??-??' | sort | head -n "-$AIGQ_KEEP_RUNS" |
  xargs -r rm -rf
