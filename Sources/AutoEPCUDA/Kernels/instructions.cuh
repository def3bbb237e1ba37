// Instructions of sm_80 and later that CUDA C++ does not expose, or only in the toolkit's headers.

#pragma once

#include "integers.cuh"

__device__ __forceinline__ u32 shared_address(const void* pointer) {
  return u32(__cvta_generic_to_shared(pointer));
}

// ---- Asynchronous copies from global to shared memory ----

// Copies the first `bytes` (0 to 16) of 16 bytes and fills the rest with zeros. Both addresses are
// aligned to 16 bytes.
__device__ __forceinline__ void copy_16_async(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(bytes)
               : "memory");
}

// Ends a batch of copies.
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits for all of this thread's batches except the last `PENDING`.
template <int PENDING>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// ---- Tensor cores ----

// Loads four 8x8 matrices of 16-bit elements. Lane 8m + r passes the address of row r of matrix m,
// 16 bytes. Lane l receives elements 2(l % 4) and 2(l % 4) + 1 of row l / 4 of each matrix.
__device__ __forceinline__ void load_matrices(u32 (&parts)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(parts[0]), "=r"(parts[1]), "=r"(parts[2]), "=r"(parts[3])
               : "r"(shared_address(shared_row))
               : "memory");
}

// Loads the transposed matrices.
__device__ __forceinline__ void load_matrices_transposed(u32 (&parts)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(parts[0]), "=r"(parts[1]), "=r"(parts[2]), "=r"(parts[3])
               : "r"(shared_address(shared_row))
               : "memory");
}

// sums [16,8] += a [16,16] b [16,8]. Lane l holds rows l / 4 and l / 4 + 8 of a, column l / 4 of b,
// and columns 2(l % 4) and 2(l % 4) + 1 of the sums.
__device__ __forceinline__ void multiply_bf16(float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void multiply_f16(float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
