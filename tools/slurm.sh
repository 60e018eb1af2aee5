#!/usr/bin/env bash
# Runs a real Slurm on this machine, for tests: one controller, one or two nodes, accounting; no systemd, nothing in /etc.
#   tools/slurm.sh start FOLDER [2]    then: export SLURM_CONF=FOLDER/slurm.conf
#   tools/slurm.sh stop FOLDER
# Needs root and Debian's packages munge, slurm-wlm, slurmdbd and mariadb-server-core. Creates FOLDER; its path must be
# short, because sockets are in it. Waits up to 60 s for each service.
set -euo pipefail
[ $# = 2 ] || [ "$#-${3:-}" = 3-2 ] || { sed -n '2,4s/^# *//p' "$0" >&2; exit 2; }
mkdir -p "$2"
folder=$(cd "$2" && pwd)
me=$(id -un)
nodes=${3:-1}
export PATH=$PATH:/usr/sbin SLURM_CONF=$folder/slurm.conf MYSQL_UNIX_PORT=$folder/db.socket

stop() { # the node first, so that its jobs end; the database last
  scancel --user="$me" 2>/dev/null || true
  for name in slurmd-node1 slurmd-node2 slurmctld slurmdbd db munged; do
    [ -s "$folder/$name.pid" ] || continue
    pid=$(cat "$folder/$name.pid")
    kill "$pid" 2>/dev/null || continue
    for _ in $(seq 150); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$pid" 2>/dev/null || true
  done
}

wait_for() { # WHAT COMMAND…
  what=$1 && shift
  for _ in $(seq 300); do "$@" >/dev/null 2>&1 && return; sleep 0.2; done
  echo "error: $what did not start; its log is in $folder" >&2
  stop
  exit 1
}

write_configuration() {
  read -r controller node1 node2 accounting <<<"$(python3 -c 'import random, socket
taken = []  # below the range that the kernel assigns to other programs
while len(taken) < 4:
    try: taken.append(socket.create_server(("127.0.0.1", random.randrange(20000, 32000))))
    except OSError: pass
print(*(one.getsockname()[1] for one in taken))')"
  cat >"$SLURM_CONF" <<END
ClusterName=samebits
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=$me
SlurmdUser=$me
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort=$controller
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$accounting
AccountingStoragePass=$folder/munge.socket
NodeName=node1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$node1 CPUs=$(nproc) State=UNKNOWN
$([ "$nodes" = 1 ] || echo "NodeName=node2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$node2 CPUs=$(nproc) State=UNKNOWN")
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
  cat >"$folder/slurmdbd.conf" <<END
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
DbdHost=$(hostname -s)
DbdAddr=127.0.0.1
DbdPort=$accounting
SlurmUser=$me
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
PidFile=$folder/slurmdbd.pid
LogFile=$folder/slurmdbd.log
END
  chmod 600 "$folder/slurmdbd.conf"
}

start() {
  [ ! -e "$SLURM_CONF" ] || { echo "error: expected a new folder, but $folder already has a Slurm; fix: choose another folder" >&2; exit 2; }
  mkdir "$folder/state" "$folder/spool" "$folder/db"
  write_configuration
  (umask 077 && head -c 128 /dev/urandom >"$folder/munge.key")
  munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" --seed-file="$folder/munge.seed" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" 2>>"$folder/munged.log"
  database=(mariadbd --no-defaults --user="$me" --datadir="$folder/db")
  { printf 'create database mysql;\nuse mysql;\n' && cat /usr/share/mysql/mysql_system_tables{,_data}.sql; } |
    "${database[@]}" --bootstrap >"$folder/db.log" 2>&1
  "${database[@]}" --socket="$MYSQL_UNIX_PORT" --pid-file="$folder/db.pid" --skip-networking >>"$folder/db.log" 2>&1 </dev/null &
  wait_for "the database" test -S "$MYSQL_UNIX_PORT"
  slurmdbd
  wait_for "accounting" sacctmgr --noheader show cluster
  slurmctld
  wait_for "the controller" scontrol ping
  for number in $(seq "$nodes"); do
    mkdir "$folder/spool/node$number"
    slurmd -N "node$number"
  done
  wait_for "each node" sh -c "[ \$(sinfo --noheader --Node --states=idle | wc -l) = $nodes ]"
}

case $1 in
  start) start ;;
  stop) stop ;;
  *) echo "error: expected start or stop, received $1" >&2 && exit 2 ;;
esac
