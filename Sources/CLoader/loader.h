#pragma once

/* glibc's dladdr, which its header declares only with _GNU_SOURCE. */

typedef struct loader_symbol {
  const char *file;
  void *file_base;
  const char *name;
  void *address;
} loader_symbol;

/* Finds the file that contains the function at an address; returns 0 on failure. */
int loader_symbol_at(const void *address, loader_symbol *symbol) __asm__("dladdr");
