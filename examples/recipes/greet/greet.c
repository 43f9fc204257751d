#include <stdio.h>
#include "greet.h"

/* A padded prefix, which is replaced when the package is installed. */
static const char prefix[256] = PLACEHOLDER;

const char *greet_prefix(void) { return prefix; }

int greet(const char *whom) { return printf("hello %s\n", whom) < 0; }
