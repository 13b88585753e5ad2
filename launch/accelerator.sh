#!/bin/sh
# Prints the JAX extra to install: cuda12, cuda13, tpu, or nothing for the CPU.
# Usage: accelerator.sh [auto|cpu|cuda12|cuda13|tpu]
case "${1:-auto}" in
  cpu) ;;
  cuda12 | cuda13 | tpu) echo "$1" ;;
  auto)
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)
    case "$driver" in
      [0-9]*) if [ "${driver%%.*}" -ge 580 ]; then echo cuda13; else echo cuda12; fi ;; # CUDA 13 needs driver 580
      *) if [ -e /dev/accel0 ] || [ -n "${TPU_NAME:-}" ]; then echo tpu; fi ;;
    esac
    ;;
  *)
    echo "ACCELERATOR: expected auto, cpu, cuda12, cuda13 or tpu; found $1" >&2
    exit 2
    ;;
esac
