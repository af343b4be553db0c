/* What Linux says of itself. */
#include "base/machine.h"

#include <stdio.h>
#include <string.h>

void machine_boot(char id[MACHINE_BOOT]) {
  FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
  if (!file || !fgets(id, MACHINE_BOOT, file))
    *id = '\0';
  id[strcspn(id, "\n")] = '\0';
  if (file)
    fclose(file);
}
