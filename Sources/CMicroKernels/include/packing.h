/* Packing: bringing operands of a product into the order in which the micro-kernels read them, and its
 * sums to where they are wanted.
 *
 * A kernel multiplies rows, whose depth runs along memory, by a panel: for each depth, the values of
 * `columns` columns one after another. Kernels that take two depths at once (bf16 dot products) read
 * both of a column side by side: pairs are their words, single values those of all others. Columns
 * come in multiples of the words of 64 bytes. What is not there (columns beyond `width`, the second
 * depth of the last pair) is packed as zero.
 *
 * `source` holds the address of each row of stored values. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Whether whole cache lines can be written past the caches. */
#if defined(__x86_64__)
enum { STREAMS_LINES = 1 };
#else
enum { STREAMS_LINES = 0 };
#endif

typedef struct packing {
  /* A panel of columns that are rows in memory: column c at depth p is source[c][p]. */
  void (*columns_from_rows)(const void *const *source, ptrdiff_t width, ptrdiff_t depth,
                            ptrdiff_t columns, void *panel);
  /* Panels of depths that are rows in memory: column c at depth p is source[p][first + c]. Each has
   * `columns` columns, the last one what is left, rounded up to a multiple of `unit`. */
  void (*depths_from_rows)(const void *const *source, ptrdiff_t depth, ptrdiff_t first,
                           ptrdiff_t width, ptrdiff_t columns, ptrdiff_t unit, void *panels);
  /* Rows that a kernel cannot read in place, `stride` words apart, the depth in words rounded up as
   * columns are. */
  void (*rows_from_rows)(const void *const *source, ptrdiff_t rows, ptrdiff_t depth, void *packed,
                         ptrdiff_t stride);
  /* Of words: transposed[c][r] = source[r][c]. Strides count in words; the rows of both are multiples
   * of 64 bytes. */
  void (*transpose)(const void *source, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t columns,
                    void *transposed, ptrdiff_t transposed_stride);
  /* Rounds sums to stored values: target[r][first + c] = sums[r][c]. The stride counts in sums; the rows
   * of sums are multiples of 64 bytes. With `streams` whole cache lines are written past the caches;
   * `end_streams` is then to be called before another thread is told. */
  void (*store_rows)(const void *sums, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t columns,
                     void *const *target, ptrdiff_t first, int32_t streams);
  /* The same of transposed sums: target[r][first + c] = sums[c][r]. */
  void (*store_transposed)(const void *sums, ptrdiff_t stride, ptrdiff_t columns, ptrdiff_t rows,
                           void *const *target, ptrdiff_t first, int32_t streams);
} packing;

/* Makes what this thread has streamed visible before what it writes from now on. */
static inline void end_streams(void) {
#if defined(__x86_64__)
  __builtin_ia32_sfence();
#endif
}

/* Asks for bytes [first, first + count) of each of some rows, which will soon be read. */
static inline void prefetch_rows(const void *const *rows, ptrdiff_t row_count, ptrdiff_t first,
                                 ptrdiff_t count) {
  for (ptrdiff_t row = 0; row < row_count; row++) {
    const char *begin = (const char *)rows[row] + first;
    for (ptrdiff_t offset = 0; offset < count; offset += 64) {
      __builtin_prefetch(begin + offset);
    }
  }
}

/* Puts the addresses of the cache lines of these bytes into `lines`; returns how many. */
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
