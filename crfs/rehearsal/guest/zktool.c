/* zkgrifs N, zklockifs FILE, zkunlockifs FILE, zkifc -s FOLDER: which one, says the program's name.
 *
 * The first three talk to the device themselves and fail while zkifc holds it.
 */
#include "zkline.h"

#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define HELD_BY_DAEMON "/run/zkifc.lock"
#define MAX_FILE (1 << 20)

static int complain(const char *program, const char *what)
{
    fprintf(stderr, "%s: %s\n", program, what);
    return 1;
}

/* A folder that is not there (in an early initramfs) means: no daemon either. */
static int held_by_daemon(void)
{
    int fd = open(HELD_BY_DAEMON, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    int held = flock(fd, LOCK_SH | LOCK_NB) != 0;
    close(fd);
    return held;
}

static int ask_and_print(const char *program, const char *verb, const void *data, size_t size)
{
    unsigned char *answer;
    size_t answer_size;
    if (zkline_ask(verb, data, size, &answer, &answer_size) < 0)
        return complain(program, zksim_last_error());
    if (fwrite(answer, 1, answer_size, stdout) != answer_size || fflush(stdout) != 0)
        return complain(program, "cannot write the result");
    memset(answer, 0, answer_size);
    free(answer);
    return 0;
}

static int convert_file(const char *program, const char *verb, const char *path)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (!file)
        return complain(program, "cannot open the file");
    char *data = malloc(MAX_FILE);
    size_t size = data ? fread(data, 1, MAX_FILE, file) : 0;
    if (!data || ferror(file) || !feof(file) || size == 0)
        return complain(program, "cannot read the file, or it is empty or larger than 1 MiB");
    return ask_and_print(program, verb, data, size);
}

static int daemon_main(const char *program)
{
    int fd = open(HELD_BY_DAEMON, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) != 0)
        return complain(program, "another zkifc holds the device");
    unsigned char *answer;
    size_t size;
    /* Blinking three times says that the host has been found; no answer is no reason to end. */
    if (zkline_ask("led", "flash 100 100 3", 15, &answer, &size) < 0)
        complain(program, zksim_last_error());
    free(answer);
    sigset_t ends;
    int which;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    sigprocmask(SIG_BLOCK, &ends, NULL);
    sigwait(&ends, &which);
    return 0;
}

int main(int argc, char **argv)
{
    const char *program = basename(argv[0]);
    if (strcmp(program, "zkifc") == 0) {
        if (argc == 2 && strcmp(argv[1], "-v") == 0) {
            puts("zkifc 1.0 (simulated HSM6)");
            return 0;
        }
        return daemon_main(program);
    }
    if (argc != 2) {
        fprintf(stderr, "usage: zkgrifs N | zklockifs FILE | zkunlockifs FILE\n");
        return 1;
    }
    if (held_by_daemon())
        return complain(program, "the device is busy: zkifc holds it; stop zkifc.service first");
    if (strcmp(program, "zkgrifs") == 0)
        return ask_and_print(program, "random", argv[1], strlen(argv[1]));
    if (strcmp(program, "zklockifs") == 0)
        return convert_file(program, "lock", argv[1]);
    if (strcmp(program, "zkunlockifs") == 0)
        return convert_file(program, "unlock", argv[1]);
    return complain(program, "called by an unknown name");
}
