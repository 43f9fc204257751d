#include <stdio.h>
#include <string.h>
#include "greet.h"

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--prefix") == 0) {
        return puts(greet_prefix()) < 0;
    }
    return greet(argc > 1 ? argv[1] : "world");
}
