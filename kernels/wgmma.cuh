// Warpgroup products of sm_90a, one function each: a warpgroup (4 warps) multiplies matrices that lie in shared memory,
// asynchronously. PTX ISA: "Asynchronous warpgroup level matrix instructions", 128-byte swizzle.
//
// A matrix is made of rows of 128 bytes; 16-byte chunk i of the row at address p (a multiple of 128) lies at
// p + 16 (i ^ (p / 128) % 8). Rows come in eights that follow each other.
//   K-major       a row has 64 neighbours of the summed index for one row of A (column of B); `stride` to the next
//                 eight rows of A. 16 of the sum are 32 bytes.
//   transposed    a row has 64 neighbouring rows of A (columns of B) for one value of the summed index; `stride` to the
//                 next eight of the sum, `leading` to the next 64 rows of A. 16 of the sum are two eights.
// The swizzle is a function of the address, so a matrix may start at any row: a filter tap is an offset.
// Sums: register 4 j + i of a thread is row 16 warp + lane / 4 (+ 8 for i >= 2), column 8 j + 2 (lane % 4) + i % 2.
#pragma once
#include "mma.cuh"

// Byte of chunk `chunk` of row `row`, of rows that start at a multiple of 1024.
__device__ __forceinline__ int swizzled(int row, int chunk) { return row * 128 + ((chunk ^ (row & 7)) << 4); }

// Descriptor of the matrix at `address` of shared memory; distances in bytes.
__device__ __forceinline__ u64 matrix(u32 address, int leading, int stride) {
    return (u64)(address >> 4) | (u64)(leading >> 4) << 16 | (u64)(stride >> 4) << 32 | 1ull << 62;
}
// The matrix `bytes` further on.
__device__ __forceinline__ u64 advance(u64 matrix, int bytes) { return matrix + (bytes >> 4); }

// Before the first product that touches registers the thread has written.
__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most N groups of products are under way.
template <int N>
__device__ __forceinline__ void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// A barrier of the first THREADS threads of the block.
template <int THREADS>
__device__ __forceinline__ void warpgroups_wait() {
    asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory");
}

// d[64][64] += A[64][16] B[16][64], bf16 products, f32 sums; without `add` the products replace d. TA, TB_: transposed.
template <int TA, int TB_>
__device__ __forceinline__ void multiply_async(float (&d)[32], u64 a, u64 b, int add) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
                 "}, %32, %33, p, 1, 1, %35, %36; }"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]),
                   "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
                   "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
                   "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]),
                   "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
                   "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
                   "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
                 : "l"(a), "l"(b), "r"(add), "n"(TA), "n"(TB_));
}

// The same for d[64][128], B[16][128].
template <int TA, int TB_>
__device__ __forceinline__ void multiply_async(float (&d)[64], u64 a, u64 b, int add) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
                 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
                 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
                 "}, %64, %65, p, 1, 1, %67, %68; }"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]),
                   "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
                   "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
                   "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]),
                   "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
                   "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
                   "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
                   "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
                   "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
                   "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]),
                   "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
                   "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]),
                   "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
                   "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]),
                   "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
                 : "l"(a), "l"(b), "r"(add), "n"(TA), "n"(TB_));
}
