/* How an object lends its memory, by DLPack. */
#ifndef AUTOEP_ENGINE_LEND_H
#define AUTOEP_ENGINE_LEND_H

#include "engine.h"
#include "dlpack.h"

typedef struct Loan {
  PyObject *lender; /* a reference that keeps the memory borrowed */
  DLTensor tensor;
  int is_read_only;
} Loan;

/* Borrows; 0 with the lender's exception set where it does not lend. Memory of a GPU is taken as it
 * is, without a wait: the call goes on the stream that its work is on. */
int lend(PyObject *object, Loan *loan);

#endif
