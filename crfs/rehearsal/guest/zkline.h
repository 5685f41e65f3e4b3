/* The serial line to the simulated HSM6: one request, one answer, one line each.
 *
 * request: "\n@SEQ VERB HEX SUM\n"     answer: "=SEQ CODE HEX SUM\n"
 * SEQ is 8 hex digits chosen by the asker, HEX the payload ("-" for none), CODE a decimal number
 * (0 or more: fine), SUM the low 16 bits of the sum of all bytes before it, as 4 hex digits.
 * Anything else on the line (noise, half lines of a boot that was cut) is passed over.
 */
#ifndef ZKLINE_H
#define ZKLINE_H

#include <stddef.h>

#define ZK_TIMEOUT (-110)
#define ZK_NO_DEVICE (-19)

/* Ask; the answer's payload is malloc'ed into *out (also for a refusal: its text). Returns the
 * HSM's code, ZK_TIMEOUT if it is silent for 5 s, ZK_NO_DEVICE if there is no line to it. */
int zkline_ask(const char *verb, const void *data, size_t size, unsigned char **out,
               size_t *out_size);

/* Why the last call of this process failed, in words; never NULL. */
const char *zksim_last_error(void);

#endif
