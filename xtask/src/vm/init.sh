#!/bin/busybox sh
# Process 1 of the guest of `cargo xtask vm`. Prints `ok: …` or `FAILED: …` for every check and `end` when it is through.
set -u
B=/bin/busybox

# The firmware has left its own line unfinished.
echo

# Kybern changes the root directory of containers, which cannot be done below the kernel's first root file system.
if [ ! -e /second ]; then
    $B mkdir /new
    $B mount -t tmpfs -o size=80% tmpfs /new
    $B cp -a /bin /sbin /lib /kybern /kubectl /init /new/
    $B mkdir /new/proc /new/sys /new/dev /new/run /new/tmp /new/etc /new/var /new/opt
    : > /new/second
    exec $B switch_root /new /init
fi

$B --install -s /bin
export PATH=/bin:/sbin HOME=/tmp KUBECONFIG=/var/lib/kybern/admin.kubeconfig
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
hostname vm
ip link set lo up
# An address of the machine, before there is a network card.
ip address add 192.0.2.10/32 dev lo

check() { # NAME COMMAND…
    name=$1
    shift
    if "$@" > /tmp/check 2>&1; then
        echo "ok: $name"
    else
        echo "FAILED: $name: $*"
        cat /tmp/check
    fi
}
holds() { # FILE TEXT…
    file=$1
    shift
    for text in "$@"; do
        grep -q -e "$text" "$file" || { echo "no $text in:"; cat "$file"; return 1; }
    done
}
refused() { # TEXT…: `server` must fail, say all of this, and make nothing.
    timeout 120 /kybern server --node-ip 192.0.2.10 > /tmp/refusal 2>&1
    [ $? = 1 ] || { echo "it did not refuse:"; cat /tmp/refusal; return 1; }
    [ ! -e /var/lib/kybern ] || { echo "it has made its directory"; return 1; }
    holds /tmp/refusal "$@"
}
finish() {
    echo end
    poweroff -f
}
kubectl() { /kubectl "$@"; }
eventually() { # COMMAND…, for two minutes
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ $tries -lt 240 ] || return 1
        sleep 0.5
    done
}

if grep -q kybern.scenario=controllers /proc/cmdline; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    check "a controller that is turned off is named" refused 'cgroup controllers memory' 'cgroup_enable=memory'
    finish
fi

# Nothing of it is loaded, and nothing can be.
mv /lib/modules /lib/hidden
check "every missing feature is named at once" refused \
    'file system overlay' 'modprobe overlay' 'kind veth' 'kind bridge' 'nf_tables' 'cgroups' 'mount -t cgroup2'
check "down has nothing to do" /kybern down
mv /lib/hidden /lib/modules
mount -t cgroup2 cgroup2 /sys/fs/cgroup
masquerade=$(find /lib/modules -name 'nft_masq.ko')
mv "$masquerade" /tmp/nft_masq.ko
check "one missing module is named" refused 'nft_masq' 'modprobe nft_masq'
check "nothing else is" sh -c '[ "$(grep -c "^  - " /tmp/refusal)" = 1 ]'
mv /tmp/nft_masq.ko "$masquerade"

# The machine as it should be: cgroup v2 alone.
modprobe dummy
ip address del 192.0.2.10/32 dev lo
ip link add eth0 type dummy
ip address add 192.0.2.10/24 dev eth0
ip link set eth0 up
ip route add default via 192.0.2.1
check "up --demo" sh -c '/kybern up --demo > /tmp/up 2>&1 || {
    cat /tmp/up
    tail -n 20 /var/lib/kybern/server.log
    /kubectl get events -A
    exit 1
}'
cat /tmp/up

cat > /tmp/pods.yaml <<'EOF'
apiVersion: v1
kind: Pod
metadata: {name: limited}
spec:
  containers:
  - name: c
    image: IMAGE
    command: [/kybern, testapp, serve]
    resources: {limits: {cpu: 500m, memory: 64Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: IMAGE
    command: [/kybern, testapp, memory, "200"]
    resources: {limits: {memory: 48Mi}}
EOF
image=$(kubectl get deployment kybern-demo -o 'jsonpath={.spec.template.spec.containers[0].image}')
sed -i "s,IMAGE,$image," /tmp/pods.yaml
check "pods with limits are made" kubectl apply -f /tmp/pods.yaml
check "a limited pod runs" kubectl wait pod/limited --for=condition=Ready --timeout=120s
uid=$(kubectl get pod limited -o 'jsonpath={.metadata.uid}')
id=$(kubectl get pod limited -o 'jsonpath={.status.containerStatuses[0].containerID}')
group=$(find /sys/fs/cgroup -type d -name "*${id##*/}*")
check "a container's cgroup" test -d "$group"
check "its memory limit" holds "$group/memory.max" '^67108864$'
check "its CPU limit" holds "$group/cpu.max" '^50000 100000$'
check "its process is in it" grep -q . "$group/cgroup.procs"
check "exec joins it" sh -c "/kubectl exec limited -- /kybern testapp exit 7; [ \$? = 7 ]"
check "too much memory is OOMKilled" eventually sh -c "/kubectl get pod greedy -o 'jsonpath={.status.containerStatuses[0].state.terminated.reason}' | grep -q '^OOMKilled$'"

server=$(cat /var/lib/kybern/lock)
kill -9 "$server"
check "up after kill -9" /kybern up
check "the container goes on" sh -c "[ \"\$(/kubectl get pod limited -o 'jsonpath={.status.containerStatuses[0].containerID}')\" = '$id' ]"
check "delete" kubectl delete pod limited greedy --timeout=120s
check "the cgroup is gone" eventually test ! -e "$group"

check "down" /kybern down
check "no cgroup is left" sh -c '[ -z "$(find /sys/fs/cgroup -name "kubepods*")" ]'
check "no link is left" sh -c '! ip link | grep -E "cni|veth"'
check "no mount is left" sh -c '! grep -E "kybern|overlay" /proc/mounts'
check "no file is left" sh -c '[ ! -e /var/lib/kybern ] && [ ! -e /run/kybern ]'
finish
