#!/usr/bin/env bash
# Prints a JobSet (jobset.x-k8s.io) for a training. Pipe it to kubectl to start it:
#   IMAGE=registry/rankclip launch/kubernetes.sh gpu HOSTS GPUS -- --config configs/cc3m.py --workdir gs://... | kubectl apply -f -
#   IMAGE=registry/rankclip launch/kubernetes.sh tpu tpu-v5-lite-podslice 16x16 SLICES -- --config configs/cc3m.py
# To build IMAGE: docker build -t registry/rankclip --build-arg ACCELERATOR=cuda13 . (or cuda12, tpu)
# NAME is the name of the JobSet (default: rankclip). Processes find each other by the JobSet's DNS names, so they need
# no cluster permissions. A failed or evicted pod restarts all pods, which resume from the last checkpoint.
set -u
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"

kind=${1:-}
case $kind in
gpu) hosts=${2:-} devices=${3:-} && [ $# -ge 3 ] && shift 3 ;;
tpu) accelerator=${2:-} topology=${3:-} slices=${4:-} && [ $# -ge 4 ] && shift 4 ;;
*) explain "expected gpu or tpu first; found '$kind'. Use: launch/kubernetes.sh gpu 2 8 -- --config configs/cc3m.py" ;;
esac
[ "${1:-}" = -- ] && [ $# -gt 1 ] || explain "no flags for the training after --. Use: launch/kubernetes.sh gpu 2 8 -- --config configs/cc3m.py"
shift
name=${NAME:-rankclip}
image=${IMAGE:-}
[ -n "$image" ] || explain "IMAGE: not set. Build one with: docker build -t registry/rankclip --build-arg ACCELERATOR=cuda13 . Then use IMAGE=registry/rankclip"
[[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] || explain "NAME: expected lower-case letters, digits and dashes; found '$name'"

if [ "$kind" = gpu ]; then
  check_number HOSTS "$hosts"
  check_number GPUS "$devices"
  replicas=1 pods=$hosts limits="nvidia.com/gpu: $devices" selector=
else
  check_number SLICES "$slices"
  [[ $topology =~ ^[1-9][0-9]{0,3}(x[1-9][0-9]{0,3}){1,2}$ ]] || explain "topology: expected dimensions such as 16x16; found '$topology'"
  chips=$((${topology//x/*}))
  devices=$((chips < 4 ? chips : 4)) # chips per host
  replicas=$slices pods=$((chips / devices)) limits="google.com/tpu: $devices"
  selector="
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: $accelerator
              cloud.google.com/gke-tpu-topology: $topology"
fi

# On TPUs, JAX reads the variables of GKE. On GPUs, the address consists of the JobSet's DNS names.
variables=
if [ "$kind" = gpu ]; then
  variables="
              env:
              - {name: JAX_COORDINATOR_ADDRESS, value: \"$name-workers-0-0.$name:8476\"}
              - {name: JAX_NUM_PROCESSES, value: \"$hosts\"}
              - name: RANKCLIP_JAX_TOKEN # known only to the pods of this job
                valueFrom:
                  fieldRef: {fieldPath: \"metadata.labels['batch.kubernetes.io/controller-uid']\"}"
fi
arguments=
for word in "$@"; do
  arguments+="
              - '${word//\'/\'\'}'"
done

cat <<END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
spec:
  network:
    enableDNSHostnames: true
    publishNotReadyAddresses: true
  failurePolicy:
    maxRestarts: 10
    restartStrategy: BlockingRecreate
    rules:
    - name: evicted
      action: RestartJobSetAndIgnoreMaxRestarts
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: workers
    replicas: $replicas
    template:
      spec:
        completionMode: Indexed
        parallelism: $pods
        completions: $pods
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onPodConditions:
            - {type: DisruptionTarget, status: "True"}
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: 300$selector
            containers:
            - name: train
              image: $image
              command: [python, -m, rankclip_jax.train]
              args:$arguments$variables
              ports:
              - containerPort: 8476
              resources:
                limits: {$limits}
              volumeMounts:
              - {name: memory, mountPath: /dev/shm}
            volumes:
            - name: memory
              emptyDir: {medium: Memory}
END
