/* The interface of libautoep_mpi.so, which libautoep.so opens when MPI is requested.
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
 * them); rank i of the transport is world rank ranks[i]. Collective over those ranks, which must
 * join within `timeout_seconds`. Initialises MPI if nobody did; autoep_mpi_close must then be
 * called from the same thread. If the host has initialised MPI, it must allow calls from several
 * threads, one at a time (MPI_THREAD_SERIALIZED). */
int32_t autoep_mpi_open(const int32_t *ranks, int32_t count, double timeout_seconds,
                        autoep_transport *transport, char *message);

/* Finalises MPI if autoep_mpi_open initialised it, else does nothing. Collective over
 * MPI_COMM_WORLD, whose ranks must join within `timeout_seconds`; otherwise MPI stays initialised.
 */
int32_t autoep_mpi_close(double timeout_seconds, char *message);

#ifdef __cplusplus
}
#endif

#endif /* AUTOEP_MPI_H */
