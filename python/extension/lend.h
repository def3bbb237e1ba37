/* Borrowing an object's memory through DLPack. */
#ifndef AUTOEP_ENGINE_LEND_H
#define AUTOEP_ENGINE_LEND_H

#include "engine.h"
#include "dlpack.h"

typedef struct Loan {
  PyObject *lender; /* a reference that keeps the memory borrowed */
  DLTensor tensor;
  int is_read_only;
} Loan;

/* Borrows; returns 0 with the lender's exception set on failure. GPU memory is borrowed without a
 * wait: the call runs on the stream of the pending work. */
int lend(PyObject *object, Loan *loan);

#endif
