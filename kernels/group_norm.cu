// Statistics of group norm: mean and 1 / sqrt(biased variance + eps) per sample and group.
//
// x: View<TX> [n, rows, c] -> stats: View<float> [n, 1, 2 groups], means then inverse deviations. A group is
// c / groups consecutive channels.
//
// Mean and M2 = sum (x - mean)^2 are made of four values at a time (mean first, then the deviations from it) and
// merged by Chan's formula (Chan, Golub, LeVeque 1979) in a fixed order: nothing cancels, however far the
// mean is from zero. `group_norm` does a sample's channels in one block (small maps); else `group_norm_partials`
// writes (mean, M2) per block of pixels and channel, and `group_norm_merge` merges them.
//
// Grids: see columns.cuh; `group_norm`: blocks = 1, span = rows, lanes VX a multiple of c / groups;
// merge: (ceil(n groups / warps)). Shared: 2 VX (threads / lanes + 1) lanes floats.
// Bytes: x once; 8 per channel and block of partials. About 5 operations per element.
//
// Macros: TX, VX = 1, 2, 4, 8.
#include "columns.cuh"

constexpr int ROWS = 4;

// Mean and M2 of `count` numbers.
struct Moments {
    float mean[VX], m2[VX];
};

// Merges rows r, r + height, .. (ROWS of them, as far as they are inside) into `sum` of `count` rows.
__device__ __forceinline__ void take_rows(const View<const TX> &x, const Columns &at, int r, int count, Moments &sum) {
    float values[ROWS][VX];
    int fresh = 0;
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
        if (r + i * at.height < at.end) {
            load<VX>(x.row(at.n, r + i * at.height) + at.channel, values[i]);
            ++fresh;
        } else {
#pragma unroll
            for (int v = 0; v < VX; ++v) values[i][v] = 0.f;
        }
    }
    float share = 1.f / (float)fresh, weight = (float)fresh / (float)(count + fresh);
#pragma unroll
    for (int v = 0; v < VX; ++v) {
        float total = 0.f, m2 = 0.f;
#pragma unroll
        for (int i = 0; i < ROWS; ++i) total += values[i][v];
        float mean = total * share;
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            float d = values[i][v] - mean;
            if (i < fresh) m2 = fmaf(d, d, m2);
        }
        float delta = mean - sum.mean[v];
        sum.mean[v] = fmaf(delta, weight, sum.mean[v]);
        sum.m2[v] += fmaf(delta * delta, weight * (float)count, m2);
    }
}

// Moments of the block's rows for each of its channels, left in shared memory: means at at(v, 0, x), M2 behind.
__device__ __forceinline__ void block_moments(const View<const TX> &x, const Columns &at, int c, float *means,
                                              float *m2s) {
    Moments sum = {};
    if (at.inside) {
        int count = 0;
        for (int r = at.first + at.y; r < at.end; r += ROWS * at.height, count += ROWS) take_rows(x, at, r, count, sum);
#pragma unroll
        for (int v = 0; v < VX; ++v) {
            means[at.at(v, at.y, at.x)] = sum.mean[v];
            m2s[at.at(v, at.y, at.x)] = sum.m2[v];
        }
    }
    __syncthreads();
    float share = 1.f / (float)(at.end - at.first);
    int channels = c - (int)blockIdx.y * at.lanes * VX;
    for (int t = threadIdx.x; t < at.lanes * VX; t += blockDim.x) {
        int v = t / at.lanes, lane = t - v * at.lanes;
        if (lane * VX + v >= channels) continue;
        float mean = 0.f, m2 = 0.f;
        for (int y = 0; y < at.height; ++y)
            if (int count = at.count(y)) mean = fmaf((float)count, means[at.at(v, y, lane)], mean);
        mean *= share;
        for (int y = 0; y < at.height; ++y)
            if (int count = at.count(y)) {
                float d = means[at.at(v, y, lane)] - mean;
                m2 += fmaf((float)count * d, d, m2s[at.at(v, y, lane)]);
            }
        // Only this thread reads column (v, lane).
        means[at.at(v, 0, lane)] = mean;
        m2s[at.at(v, 0, lane)] = m2;
    }
    __syncthreads();
}

__device__ __forceinline__ void write_group(float mean, float m2, float count, float eps, float *stats, int group,
                                            int groups) {
    stats[group] = mean;
    stats[groups + group] = (float)(1. / sqrt((double)(m2 / count) + (double)eps));
}

extern "C" __global__ void group_norm(View<const TX> x, View<float> stats, int rows, int c, int lanes, int groups,
                                      float eps) {
    extern __shared__ float shared[];
    Columns at(rows, c, lanes, 1, rows);
    float *means = shared, *m2s = shared + at.shared_floats();
    block_moments(x, at, c, means, m2s);
    int width = c / groups, warps = blockDim.x / 32, lane = threadIdx.x % 32;
    int channels = min(lanes * VX, c - (int)blockIdx.y * lanes * VX);
    for (int g = threadIdx.x / 32; g < channels / width; g += warps) {
        float total = 0.f, m2 = 0.f;
        for (int i = lane; i < width; i += 32) total += means[at.at((g * width + i) % VX, 0, (g * width + i) / VX)];
        float mean = warp_sum(total) / (float)width;
        for (int i = lane; i < width; i += 32) {
            int from = at.at((g * width + i) % VX, 0, (g * width + i) / VX);
            float d = means[from] - mean;
            m2 += fmaf((float)rows * d, d, m2s[from]);
        }
        m2 = warp_sum(m2);
        int group = blockIdx.y * lanes * VX / width + g;
        if (lane == 0) write_group(mean, m2, (float)rows * (float)width, eps, stats.row(at.n, 0), group, groups);
    }
}

extern "C" __global__ void group_norm_partials(View<const TX> x, float2 *part, int rows, int c, int lanes, int blocks,
                                               int span) {
    extern __shared__ float shared[];
    Columns at(rows, c, lanes, blocks, span);
    float *means = shared, *m2s = shared + at.shared_floats();
    block_moments(x, at, c, means, m2s);
    part += (i64)blockIdx.x * c;
    int first = blockIdx.y * lanes * VX;
    for (int t = threadIdx.x; t < min(lanes * VX, c - first); t += blockDim.x) {
        int from = at.at(t % VX, 0, t / VX);
        part[first + t] = make_float2(means[from], m2s[from]);
    }
}

// A warp merges the partials of a sample's group: the mean, then the deviations of the partial means from it.
extern "C" __global__ void group_norm_merge(const float2 *part, View<float> stats, int n, int rows, int c, int groups,
                                            int blocks, int span, float eps) {
    int warp = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    int sample = warp / groups, group = warp - sample * groups;
    if (sample >= n) return;
    int width = c / groups, items = blocks * width;
    part += (i64)sample * blocks * c + group * width;
    float total = 0.f, m2 = 0.f, count = (float)rows * (float)width;
    for (int i = lane; i < items; i += 32) {
        int block = i / width;
        total = fmaf((float)min(span, rows - block * span), part[(i64)block * c + i - block * width].x, total);
    }
    float mean = warp_sum(total) / count;
    for (int i = lane; i < items; i += 32) {
        int block = i / width;
        float2 one = part[(i64)block * c + i - block * width];
        float d = one.x - mean;
        m2 += fmaf((float)min(span, rows - block * span) * d, d, one.y);
    }
    m2 = warp_sum(m2);
    if (lane == 0) write_group(mean, m2, count, eps, stats.row(sample, 0), group, groups);
}
