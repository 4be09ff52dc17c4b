#!/usr/bin/env bash
# Prints the README's figures of the containers: image size, cold build, up to all healthy, memory of each.
# Uses a project of its own and removes it; the usual ports (or SEOUL_1_PORT ...) must be free.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if docker compose version >/dev/null 2>&1; then compose=(docker compose); else compose=(docker-compose); fi
compose+=(-p evertalk-measure)
trap '"${compose[@]}" down --volumes --remove-orphans >/dev/null 2>&1' EXIT
now() { date +%s%N; }
since() { local tenths=$((($(now) - $1) / 100000000)); echo "$((tenths / 10)).$((tenths % 10)) s"; }
# Containers that are not healthy yet; those without a health check have ended by now.
waiting() { docker ps --filter label=com.docker.compose.project=evertalk-measure --format '{{.Status}}' | grep -vc healthy || true; }
running() { docker ps -q --filter label=com.docker.compose.project=evertalk-measure | wc -l; }

began=$(now)
docker build -q --no-cache -f deploy/Dockerfile -t "${EVERTALK_IMAGE:-evertalk}" . >/dev/null 2>&1
printf 'cold build                %s\n' "$(since "$began")"
printf 'image                     %s\n' "$(docker image ls --format '{{.Size}}' "${EVERTALK_IMAGE:-evertalk}")"
base=$(docker image inspect --format '{{.Size}}' python:3.11-slim-bookworm)
printf '  of that its base        %s MB\n' $((base / 1000000))
began=$(now)
"${compose[@]}" up -d >/dev/null 2>&1
until [[ $(running) -ge 10 && $(waiting) -eq 0 ]]; do sleep 0.2; done
printf 'up, until all are healthy %s\n' "$(since "$began")"
docker stats --no-stream --format '{{.Name}} {{.MemUsage}}' $(docker ps -q --filter label=com.docker.compose.project=evertalk-measure) |
  sed 's/^evertalk-measure[-_]//; s/[-_]1 / /' | sort | awk '{printf "%-25s %s of %s\n", $1, $2, $4}'
