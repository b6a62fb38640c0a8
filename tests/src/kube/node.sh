# The first process of a node: in namespaces of its own for processes, mounts and cgroups, in the node's network.
# Whatever it mounts and starts ends with it. Arguments: the node's folder, kubelet, its arguments.
set -eu
folder=$1
shift

# Volumes are passed on from the kubelet to containers.
mount --make-rshared /
mount -t proc proc /proc

# A kubelet sets these for the whole machine unless it finds them as it wants them.
while read -r key value; do
    echo "$value" >"$folder/sysctl"
    cp "$folder/sysctl" "$folder/sysctl-${key//\//-}"
    mount --bind "$folder/sysctl-${key//\//-}" "/proc/sys/$key"
done <<'SYSCTLS'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
SYSCTLS

# Interfaces as this network has them, pins of this node only, and its part of each cgroup hierarchy as a root.
hierarchies=$(awk '$3 == "cgroup" || $3 == "cgroup2" { print $2, $3, $4 }' /proc/mounts)
mount -t sysfs sysfs /sys
mount -t securityfs securityfs /sys/kernel/security 2>/dev/null || true
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs -o mode=0755 cgroup /sys/fs/cgroup
while read -r place type options; do
    mkdir -p "$place"
    controllers=$(tr , '\n' <<<"$options" | grep -vE '^(rw|ro|relatime|nosuid|nodev|noexec|clone_children|xattr|nsdelegate|memory_recursiveprot)$|^release_agent' | paste -sd, || true)
    mount -t "$type" ${controllers:+-o "$controllers"} "$type" "$place"
done <<<"$hierarchies"

# The usual places, seen by this node only. Volumes and snapshots stay on the disk.
mount -t tmpfs -o mode=0755 run /run
mount -t tmpfs -o mode=0755 log /var/log
mkdir "$folder/kubelet"
mount -t tmpfs -o mode=0755 lib /var/lib
mkdir /var/lib/kubelet
mount --bind "$folder/kubelet" /var/lib/kubelet

containerd --config "$folder/containerd.toml" >>"$folder/containerd.log" 2>&1 &
until ctr --address "$folder/containerd.sock" version >/dev/null 2>&1; do
    kill -0 $!
    sleep 0.1
done
ctr --address "$folder/containerd.sock" -n k8s.io images import "$folder/pause.tar"
"$@" >>"$folder/kubelet.log" 2>&1 &
# Neither is of use without the other.
wait -n
exit 1
