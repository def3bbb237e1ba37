/* What libautoep_mpi.so gives to libautoep.so, which opens it when MPI is asked for.
 *
 * Both functions return 0, or an autoep_status after writing a text of at most
 * AUTOEP_ERROR_MESSAGE_SIZE bytes (NUL included) to `message`. */
#ifndef AUTOEP_MPI_H
#define AUTOEP_MPI_H

#include "autoep.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Fills `transport` for the given ranks of MPI_COMM_WORLD (`ranks` [count], or NULL for all of
 * them); rank i of it is world rank ranks[i]. Collective over those ranks, which have
 * `timeout_seconds` to come. Initialises MPI if nobody did; then autoep_mpi_close is called
 * from the same thread. An MPI that someone else initialised must allow calls from several
 * threads, one at a time (MPI_THREAD_SERIALIZED). */
int32_t autoep_mpi_open(const int32_t *ranks, int32_t count, double timeout_seconds,
                        autoep_transport *transport, char *message);

/* Ends MPI if autoep_mpi_open began it, else does nothing. Collective over MPI_COMM_WORLD,
 * whose ranks have `timeout_seconds` to come; MPI stays open if one does not. */
int32_t autoep_mpi_close(double timeout_seconds, char *message);

#ifdef __cplusplus
}
#endif

#endif /* AUTOEP_MPI_H */
