#!/usr/bin/env bash
# Runs a Docker engine of its own on this machine, for tests. Not beside another one, and for a machine that may be thrown
# away: it uses the bridge docker0 and changes the rules of the firewall, which stay.
#   tools/docker_engine.sh start FOLDER [GROUP]    then: export DOCKER_HOST=unix://FOLDER/socket
#   tools/docker_engine.sh stop FOLDER             ends it and its containers, and removes FOLDER
# Needs root and Debian's package docker.io. Users of GROUP may use the engine (default: docker). FOLDER's path must be
# short, because sockets are in it. Waits up to 60 s.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,7s/^# *//p' "$0" >&2; exit 2; }
export PATH=$PATH:/usr/sbin
mkdir -p "$2"
folder=$(cd "$2" && pwd)
group=${3:-docker}
export DOCKER_HOST=unix://$folder/socket

case $1 in
  start)
    getent group "$group" >/dev/null || groupadd "$group"
    chmod 711 "$folder"
    # In a session of its own: a signal for the caller's group must not end it before its containers.
    echo '{}' >"$folder/settings.json" # not those of /etc/docker
    setsid dockerd --config-file "$folder/settings.json" --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/pid" --group "$group" \
      --host "$DOCKER_HOST" >"$folder/log" 2>&1 </dev/null &
    for _ in $(seq 300); do
      docker info >/dev/null 2>&1 && exit 0
      kill -0 $! 2>/dev/null || break
      sleep 0.2
    done
    echo "error: dockerd did not start; the end of its log:" >&2
    tail -n 3 "$folder/log" >&2
    kill -KILL $! 2>/dev/null || true
    exit 1
    ;;
  stop)
    if [ -s "$folder/pid" ]; then
      pid=$(cat "$folder/pid")
      docker ps --quiet | xargs --no-run-if-empty docker kill >/dev/null 2>&1 || true
      kill "$pid" 2>/dev/null || true
      for _ in $(seq 300); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
      kill -KILL "$pid" 2>/dev/null || true
    fi
    # What is left of a dockerd that was killed.
    pkill -KILL -f -- "$folder/exec" 2>/dev/null || true
    awk -v folder="$folder/" 'index($2, folder) == 1 { print $2 }' /proc/mounts | sort -r | xargs --no-run-if-empty umount --lazy
    rm -rf "$folder"
    ;;
  *) sed -n '2,7s/^# *//p' "$0" >&2; exit 2 ;;
esac
