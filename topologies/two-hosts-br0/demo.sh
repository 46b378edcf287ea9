#!/bin/sh
# Two hosts on one LAN segment, each with its NIC in br0 and a container with an address on the LAN: they talk at layer
# 2, without NAT. Everything is in private namespaces; the machine's own interfaces, routes and rules stay as they are,
# which is checked at the end. Without root it makes a user namespace first.
#
# BIN=DIR: where netd, rnet and rnet-shim are (default: found by PATH).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
if [ -n "${BIN:-}" ]; then PATH=$BIN:$PATH; fi
PATH=$PATH:/usr/sbin:/sbin

if [ "${RNET_DEMO:-}" != inside ]; then
    begun=$(date +%s)
    # What must be the same afterwards. Counters and ages change by themselves.
    machine() { ip -o link | cut -d: -f2 | sort; ip -o addr | awk '{print $2, $3, $4}' | sort; ip route; ip -6 route | sort; ls /run/netns 2>/dev/null || true; }
    before=$(machine)
    code=0
    if [ "$(id -u)" = 0 ]; then
        RNET_DEMO=inside unshare --net --mount --propagation private "$0" || code=$?
    elif unshare --user --map-root-user true 2>/dev/null; then
        echo "# not root: inside a user namespace. What differs: containers have no cgroup, and only the user's own ids exist."
        RNET_DEMO=inside unshare --user --map-root-user --net --mount "$0" || code=$?
    else
        echo "demo: needs root, or a kernel that lets users make user namespaces" >&2
        exit 1
    fi
    [ "$before" = "$(machine)" ] || { echo "demo: the machine's own network changed" >&2; exit 1; }
    [ "$code" = 0 ] && echo "# done in $(($(date +%s) - begun)) s; the machine's own interfaces, addresses and routes are as before"
    exit "$code"
fi

# ---- from here on in private namespaces -----------------------------------------------------------------------------

dir=$(mktemp -d)
pids=
step=0
lab=$dir/lab
topology=$here/two-hosts-br0.clab.yml

finish() {
    code=$?
    trap - EXIT
    if [ "$code" != 0 ]; then
        echo "# failed; what the daemons said:" >&2
        tail -n 5 "$dir"/*.log >&2 || true
    fi
    for host in host-a host-b; do
        RNET_ROOT=$dir/$host rnet ps -aq 2>/dev/null | while read -r id; do
            RNET_ROOT=$dir/$host rnet rm -f "$id" >/dev/null 2>&1 || true
        done
    done
    if [ "$code" != 0 ]; then
        RNET_ROOT=$lab rnet lab destroy -t "$topology" >/dev/null 2>&1 || true
    fi
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    for pid in $pids; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$dir"
    exit "$code"
}
trap finish EXIT

say() { step=$((step + 1)); printf '\n# %s. %s\n' "$step" "$1"; }

# The words after the host are run on that host, and shown as a user there would type them.
on() {
    host=$1
    shift
    printf '%s$ %s\n' "$host" "$*"
    RNET_ROOT=$lab rnet lab exec -t "$topology" "$host" -- env RNET_ROOT="$dir/$host" "$@"
}

# Starts a daemon and waits until it answers.
daemon() {
    name=$1
    shift
    "$@" 2>"$dir/$name.log" &
    pids="$! $pids"
    tries=0
    until RNET_ROOT=$dir/$name rnet version >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || { echo "demo: netd of $name does not answer" >&2; exit 1; }
        sleep 0.05
    done
}

mkdir -p "$dir/www" "$dir/rootfs/bin" "$dir/rootfs/www"
for sub in proc sys dev etc tmp; do mkdir "$dir/rootfs/$sub"; done
cp "$(command -v busybox)" "$dir/rootfs/bin/busybox"
for applet in sh sleep ping wget httpd ip cat; do ln -s busybox "$dir/rootfs/bin/$applet"; done
echo "hello from web" >"$dir/rootfs/www/index.html"

ip link set lo up
say "a LAN: a segment, its router, two hosts with an eth0 each"
daemon lab netd --root "$lab"
echo "$ rnet lab deploy -t two-hosts-br0.clab.yml"
RNET_ROOT=$lab rnet lab deploy -t "$topology"

say "each host runs its own netd and puts its NIC into br0; address and routes move along"
for host in host-a host-b; do
    printf '%s$ netd &\n' "$host"
    daemon "$host" env RNET_ROOT="$lab" rnet lab exec -t "$topology" "$host" -- netd --root "$dir/$host"
    on "$host" rnet bridge create br0 --uplink eth0
done
on host-a ip -brief address show br0

say "a container on each, without network, and the command this is all about"
# (busybox's ping wants a raw socket, which containers have to ask for)
on host-a rnet run -d --name web --net none --rootfs "$dir/rootfs" httpd -f -h /www
on host-a rnet attach br0 web 192.168.115.10/24@gw
on host-b rnet run -d --name db --net none --cap-add NET_RAW --rootfs "$dir/rootfs" sleep 600
on host-b rnet attach br0 db 192.168.115.20/24@gw
on host-a rnet attachments

say "from container to container, across the hosts"
on host-b rnet exec db ping -c 3 -i 0.2 192.168.115.10
on host-b rnet exec db wget -q -O - http://192.168.115.10/
on host-b rnet exec db ping -c 1 192.168.115.1
mac() { RNET_ROOT=$dir/host-a rnet attachments --json | sed -n 's/^ *"mac": "\(.*\)",*$/\1/p'; }
seen=$(RNET_ROOT=$dir/host-b rnet exec db ip neigh show to 192.168.115.10)
echo "# db's neighbour table: $seen"
case $seen in
    *"$(mac)"*) echo "# that is web's own MAC address: they talk at layer 2" ;;
    *) echo "demo: db does not see web's MAC address $(mac)" >&2; exit 1 ;;
esac

say "what cannot be right is refused, and nothing is left behind"
on host-b rnet attach br0 db 192.168.115.10/24 && { echo "demo: a used address was not refused" >&2; exit 1; }
on host-b rnet attach br0 db 192.168.115.21 && { echo "demo: a missing prefix was not refused" >&2; exit 1; }
on host-a rnet attach br0 web 192.168.115.10/24@gw

say "and everything is taken back"
on host-a rnet detach web
on host-b rnet detach db
on host-a rnet rm -f web
on host-b rnet rm -f db
for host in host-a host-b; do
    on "$host" rnet bridge rm br0
    on "$host" ip -brief address show eth0
    left=$(RNET_ROOT=$lab rnet lab exec -t "$topology" "$host" -- ip -o link | awk -F': ' '{print $2}' | cut -d@ -f1 | sort | tr '\n' ' ')
    [ "$left" = "eth0 lo " ] || { echo "demo: left on $host: $left" >&2; exit 1; }
done
echo "$ rnet lab destroy -t two-hosts-br0.clab.yml"
RNET_ROOT=$lab rnet lab destroy -t "$topology"
left=$(ip -o link | awk -F': ' '{print $2}' | sort | tr '\n' ' ')
[ "$left" = "lo " ] || { echo "demo: left: $left" >&2; exit 1; }
echo "# no interface is left"
