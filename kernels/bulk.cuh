// Bulk copies of boxes of a tensor to shared memory and the barriers they arrive at (sm_90), one function each.
// PTX ISA: "cp.async.bulk.tensor", "mbarrier".
//
// A tensor map is made by the host: base, sizes and strides of up to four dimensions, the box's sizes, the 128-byte
// swizzle (wgmma.cuh). What lies outside of the tensor arrives as zeros, and counts as bytes all the same.
#pragma once
#include "mma.cuh"

// Mirrors CUtensorMap.
struct alignas(64) TensorMap {
    u64 words[16];
};

// A barrier completes a phase when `count` arrivals and all bytes that were announced have come.
__device__ __forceinline__ void barrier_begin(u32 barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
// Makes barriers known to copies, behind all barrier_begin and before the block's barrier.
__device__ __forceinline__ void barriers_publish() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives, and announces bytes.
__device__ __forceinline__ void barrier_expect(u32 barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Waits for the end of the phase with this parity (the first has 0).
__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    asm volatile("{ .reg .pred done;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again; }" ::"r"(barrier), "r"(parity)
                 : "memory");
}

// Starts to copy the box at these coordinates (innermost first) to `to`, a multiple of 1024; it arrives at `barrier`.
__device__ __forceinline__ void copy_box(u32 to, const TensorMap &map, u32 barrier, int a, int b, int c) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to), "l"(&map), "r"(a), "r"(b), "r"(c), "r"(barrier)
                 : "memory");
}
__device__ __forceinline__ void copy_box(u32 to, const TensorMap &map, u32 barrier, int a, int b, int c, int d) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
                 "l"(&map), "r"(a), "r"(b), "r"(c), "r"(d), "r"(barrier)
                 : "memory");
}
