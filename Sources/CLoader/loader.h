#pragma once

/* glibc's dladdr, which its header declares for _GNU_SOURCE alone. */

typedef struct loader_symbol {
  const char *file;
  void *file_base;
  const char *name;
  void *address;
} loader_symbol;

/* Tells of which file the function at an address is; 0 for failure. */
int loader_symbol_at(const void *address, loader_symbol *symbol) __asm__("dladdr");
