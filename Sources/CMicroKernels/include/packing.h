/* Packing: copies the operands of a product into the order in which the micro-kernels read them, and its
 * sums to their targets.
 *
 * A kernel multiplies rows, with contiguous depths, by a panel: for each depth, the values of `columns`
 * columns one after another. Kernels that multiply two depths at once (bf16 dot products) read both
 * depths of a column as a pair: their words are pairs, those of all other kernels single values. The
 * number of columns is a multiple of the words in 64 bytes. Columns beyond `width`, and the second depth of
 * an incomplete pair, are packed as zero.
 *
 * `source` holds the address of each row of stored values. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Whether whole cache lines can be written with non-temporal stores. */
#if defined(__x86_64__)
enum { STREAMS_LINES = 1 };
#else
enum { STREAMS_LINES = 0 };
#endif

typedef struct packing {
  /* Packs a panel whose columns are rows in memory: column c at depth p is source[c][p]. */
  void (*columns_from_rows)(const void *const *source, ptrdiff_t width, ptrdiff_t depth,
                            ptrdiff_t columns, void *panel);
  /* Packs panels whose depths are rows in memory: column c at depth p is source[p][first + c]. Each has
   * `columns` columns; the last one has the rest, rounded up to a multiple of `unit`. */
  void (*depths_from_rows)(const void *const *source, ptrdiff_t depth, ptrdiff_t first,
                           ptrdiff_t width, ptrdiff_t columns, ptrdiff_t unit, void *panels);
  /* Packs rows that a kernel cannot read in place, `stride` words apart; the depth in words is rounded up
   * like columns. */
  void (*rows_from_rows)(const void *const *source, ptrdiff_t rows, ptrdiff_t depth, void *packed,
                         ptrdiff_t stride);
  /* Transposes words: transposed[c][r] = source[r][c]. Strides count words; the rows of both are multiples
   * of 64 bytes. */
  void (*transpose)(const void *source, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t columns,
                    void *transposed, ptrdiff_t transposed_stride);
  /* Rounds sums to stored values: target[r][first + c] = sums[r][c]. The stride counts sums; rows of sums
   * are multiples of 64 bytes. With `streams`, whole cache lines are written with non-temporal stores;
   * call `end_streams` before signalling another thread. */
  void (*store_rows)(const void *sums, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t columns,
                     void *const *target, ptrdiff_t first, int32_t streams);
  /* Rounds transposed sums to stored values: target[r][first + c] = sums[c][r]. */
  void (*store_transposed)(const void *sums, ptrdiff_t stride, ptrdiff_t columns, ptrdiff_t rows,
                           void *const *target, ptrdiff_t first, int32_t streams);
} packing;

/* Orders this thread's non-temporal stores before its later writes. */
static inline void end_streams(void) {
#if defined(__x86_64__)
  __builtin_ia32_sfence();
#endif
}

/* Prefetches bytes [first, first + count) of some rows. */
static inline void prefetch_rows(const void *const *rows, ptrdiff_t row_count, ptrdiff_t first,
                                 ptrdiff_t count) {
  for (ptrdiff_t row = 0; row < row_count; row++) {
    const char *begin = (const char *)rows[row] + first;
    for (ptrdiff_t offset = 0; offset < count; offset += 64) {
      __builtin_prefetch(begin + offset);
    }
  }
}

/* Writes the addresses of the cache lines of these bytes to `lines`; returns their number. */
static inline ptrdiff_t list_lines(const void *const *rows, ptrdiff_t row_count, ptrdiff_t first,
                                   ptrdiff_t count, const void **lines) {
  ptrdiff_t found = 0;
  for (ptrdiff_t row = 0; row < row_count; row++) {
    const char *begin = (const char *)rows[row] + first;
    for (ptrdiff_t offset = 0; offset < count; offset += 64) {
      lines[found++] = begin + offset;
    }
  }
  return found;
}
