/* How every room reports failure. A library room never prints, exits or aborts: it fails once with one line
 * that names the thing and the numbers, callers put context in front of it on the way up, tools/ prints it.
 * The message belongs to the calling thread; it stays until the next fail(). */
#ifndef BASE_STATUS_H
#define BASE_STATUS_H

typedef enum {
  OK = 0,
  E_USAGE,       /* the caller asked for something contradictory: exit status 2 */
  E_MODEL,       /* the ONNX file is damaged or says something impossible */
  E_SHAPE,       /* shapes do not fit */
  E_UNSUPPORTED, /* an operator, attribute, type or opset that is not there */
  E_LIMIT,       /* it does not fit a limit: of memory that somebody stated, or of what numbers can count */
  E_MEMORY,      /* the host or the device has no memory: whoever tries one thing after another stops here */
  E_IO,          /* a file cannot be read or written */
  E_DEVICE,      /* a device or its library failed */
  E_COMM         /* a peer died or a transfer failed */
} Status;

/* Sets the calling thread's message (at most 4 KiB) and returns `code`, which must not be OK. */
Status fail(Status code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same: so the compiler sees that OK is not returned, and that TRY reads no result that a failed call left unset.
 */
static inline Status fail_with(Status code, Status made) {
  (void)made;
  return code;
}
#define fail(code, ...) fail_with(code, fail(code, __VA_ARGS__))

/* Puts context in front of the calling thread's message: "gpt2.onnx: node 'h3/attn' (MatMul): ". */
void status_context(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The calling thread's message; "" if none failed yet. Valid until the thread's next fail(). */
const char *status_message(void);

/* The code that belongs to status_message(); OK if none failed yet. */
Status status_last(void);
/* The same behind a call that failed without returning a code: never OK, as the compiler sees. */
static inline Status status_code(void) {
  Status code = status_last();
  return code == OK ? E_MEMORY : code;
}

/* Takes over another thread's failure: copies code and message into the calling thread. */
Status status_adopt(Status code, const char *message);

#define TRY(call)                                                                                                      \
  do {                                                                                                                 \
    Status status_ = (call);                                                                                           \
    if (status_ != OK)                                                                                                 \
      return status_;                                                                                                  \
  } while (0)

#endif
