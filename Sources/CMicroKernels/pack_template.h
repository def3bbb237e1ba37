/* The body of a packing function, for the file that includes it to name its types: PACK, STORED, WIDE,
 * WIDEN(x), `vector` of four WIDE and load4(source, &vector). */

/* Four rows of four depths, exchanged. */
static inline void transpose4(const STORED *source, ptrdiff_t row_stride, ptrdiff_t panel_rows,
                              WIDE *packed) {
  vector row[4];
  for (int i = 0; i < 4; i++) {
    load4(source + i * row_stride, &row[i]);
  }
  vector low01 = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
  vector low23 = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
  vector high01 = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
  vector high23 = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
  vector depth[4] = {
      __builtin_shufflevector(low01, low23, 0, 1, 4, 5),
      __builtin_shufflevector(low01, low23, 2, 3, 6, 7),
      __builtin_shufflevector(high01, high23, 0, 1, 4, 5),
      __builtin_shufflevector(high01, high23, 2, 3, 6, 7),
  };
  for (int p = 0; p < 4; p++) {
    __builtin_memcpy(packed + p * panel_rows, &depth[p], sizeof depth[p]);
  }
}

/* Any rows and depths, one element after another. */
static void pack_elements(const STORED *source, ptrdiff_t row_stride, ptrdiff_t depth_stride,
                          ptrdiff_t rows, ptrdiff_t depth, ptrdiff_t panel_rows, WIDE *packed) {
  for (ptrdiff_t p = 0; p < depth; p++, source += depth_stride, packed += panel_rows) {
    for (ptrdiff_t r = 0; r < rows; r++) {
      packed[r] = WIDEN(source[r * row_stride]);
    }
  }
}

/* Rows that follow each other in memory: a copy. */
static void pack_contiguous_rows(const STORED *source, ptrdiff_t depth_stride, ptrdiff_t rows,
                                 ptrdiff_t depth, ptrdiff_t panel_rows, WIDE *packed) {
  ptrdiff_t whole_rows = rows - rows % 4;
  for (ptrdiff_t p = 0; p < depth; p++) {
    for (ptrdiff_t r = 0; r < whole_rows; r += 4) {
      vector four;
      load4(source + p * depth_stride + r, &four);
      __builtin_memcpy(packed + p * panel_rows + r, &four, sizeof four);
    }
  }
  pack_elements(source + whole_rows, 1, depth_stride, rows - whole_rows, depth, panel_rows,
                packed + whole_rows);
}

/* Depths that follow each other in memory: a transposition. */
static void pack_contiguous_depths(const STORED *source, ptrdiff_t row_stride, ptrdiff_t rows,
                                   ptrdiff_t depth, ptrdiff_t panel_rows, WIDE *packed) {
  ptrdiff_t whole_rows = rows - rows % 4;
  ptrdiff_t whole_depth = depth - depth % 4;
  for (ptrdiff_t r = 0; r < whole_rows; r += 4) {
    for (ptrdiff_t p = 0; p < whole_depth; p += 4) {
      transpose4(source + r * row_stride + p, row_stride, panel_rows,
                 packed + p * panel_rows + r);
    }
  }
  pack_elements(source + whole_depth, row_stride, 1, whole_rows, depth - whole_depth, panel_rows,
                packed + whole_depth * panel_rows);
  pack_elements(source + whole_rows * row_stride, row_stride, 1, rows - whole_rows, depth,
                panel_rows, packed + whole_rows);
}

static void fill_with_zeros(ptrdiff_t rows, ptrdiff_t depth, ptrdiff_t panel_rows, WIDE *packed) {
  for (ptrdiff_t p = 0; p < depth; p++, packed += panel_rows) {
    for (ptrdiff_t r = rows; r < panel_rows; r++) {
      packed[r] = 0;
    }
  }
}

/* One panel: `rows` rows, and zeros up to `panel_rows`. */
static void pack_panel(const STORED *source, ptrdiff_t row_stride, ptrdiff_t depth_stride,
                       ptrdiff_t rows, ptrdiff_t depth, ptrdiff_t panel_rows, WIDE *packed) {
  if (row_stride == 1) {
    pack_contiguous_rows(source, depth_stride, rows, depth, panel_rows, packed);
  } else if (depth_stride == 1) {
    pack_contiguous_depths(source, row_stride, rows, depth, panel_rows, packed);
  } else {
    pack_elements(source, row_stride, depth_stride, rows, depth, panel_rows, packed);
  }
  fill_with_zeros(rows, depth, panel_rows, packed);
}

void PACK(const STORED *source, ptrdiff_t row_stride, ptrdiff_t depth_stride, ptrdiff_t rows,
          ptrdiff_t depth, ptrdiff_t panel_rows, WIDE *packed) {
  /* Where rows follow each other in memory, panels share cache lines: a few depths of all panels are
   * packed before the next. */
  ptrdiff_t depths_at_once = row_stride == 1 ? 16 : depth;
  for (ptrdiff_t p = 0; p < depth; p += depths_at_once) {
    ptrdiff_t depths = depth - p < depths_at_once ? depth - p : depths_at_once;
    for (ptrdiff_t r = 0; r < rows; r += panel_rows) {
      pack_panel(source + r * row_stride + p * depth_stride, row_stride, depth_stride,
                 rows - r < panel_rows ? rows - r : panel_rows, depths, panel_rows,
                 packed + r * depth + p * panel_rows);
    }
  }
}
