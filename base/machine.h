/* Which machine this is. */
#ifndef BASE_MACHINE_H
#define BASE_MACHINE_H

enum { MACHINE_BOOT = 64 };

/* The id that the machine has from one start to the next; "" where it tells none. */
void machine_boot(char id[MACHINE_BOOT]);

#endif
