// A sample for the tests of bench/gpu_static.py: every thread keeps kTerms sums in registers, so that fewer registers
// spill; rows come by 16-byte asynchronous copies.
// static: sum_columns sass=LDGSTS,LDS.128 dynamic_shared=65536
// static: scale sass=LDG.128,STG.128
#include <cstdint>

namespace lynx::sample {

constexpr int kTerms = 64;

__device__ inline void copy_16_bytes(void* shared, const void* global) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
}

/// out[thread][c] = sum over steps of x[step][thread][c] * x[step][thread][kTerms - 1 - c]
template <int Threads>
__global__ void __launch_bounds__(Threads) sum_columns(const float* x, float* out, int steps) {
  extern __shared__ float4 rows[];
  float4* row = rows + threadIdx.x * (kTerms / 4);
  float sums[kTerms] = {};
  for (int step = 0; step < steps; ++step) {
    const float* from = x + (static_cast<int64_t>(step) * Threads + threadIdx.x) * kTerms;
    for (int i = 0; i < kTerms / 4; ++i) copy_16_bytes(row + i, from + 4 * i);
    asm volatile("cp.async.wait_all;" ::: "memory");
#pragma unroll
    for (int i = 0; i < kTerms / 4; ++i) {
      const float4 a = row[i], b = row[kTerms / 4 - 1 - i];
      sums[4 * i] += a.x * b.w;
      sums[4 * i + 1] += a.y * b.z;
      sums[4 * i + 2] += a.z * b.y;
      sums[4 * i + 3] += a.w * b.x;
    }
  }
#pragma unroll
  for (int c = 0; c < kTerms; ++c) out[c * Threads + threadIdx.x] = sums[c];
}

template __global__ void sum_columns<256>(const float*, float*, int);

__global__ void scale(const float4* x, float4* y, float factor) {
  __shared__ float factors[32];
  factors[threadIdx.x] = factor;
  __syncthreads();
  float4 v = x[threadIdx.x];
  v.x *= factors[31 - threadIdx.x];
  y[threadIdx.x] = v;
}

}  // namespace lynx::sample
