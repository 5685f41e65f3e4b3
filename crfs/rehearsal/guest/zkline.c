/* See zkline.h. */
#include "zkline.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define ANSWER_MS 5000
#define DEVICE_TOKEN "zksim="

static char last_error[256] = "no error";

const char *zksim_last_error(void) { return last_error; }

static int fail(int code, const char *text)
{
    snprintf(last_error, sizeof last_error, "%s", text);
    return code;
}

/* The name of the line is in the kernel command line, where the firmware puts it. */
static int open_line(void)
{
    char cmdline[4096], path[64];
    FILE *file = fopen("/proc/cmdline", "r");
    if (!file)
        return -1;
    size_t size = fread(cmdline, 1, sizeof cmdline - 1, file);
    fclose(file);
    cmdline[size] = 0;
    for (char *word = strtok(cmdline, " \n"); word; word = strtok(NULL, " \n")) {
        if (strncmp(word, DEVICE_TOKEN, strlen(DEVICE_TOKEN)) != 0)
            continue;
        snprintf(path, sizeof path, "/dev/%s", word + strlen(DEVICE_TOKEN));
        int fd = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0)
            return -1;
        struct termios settings;
        if (flock(fd, LOCK_EX) != 0 || tcgetattr(fd, &settings) != 0) {
            close(fd);
            return -1;
        }
        cfmakeraw(&settings);
        settings.c_cflag |= CLOCAL | CREAD;
        cfsetspeed(&settings, B115200);
        tcsetattr(fd, TCSANOW, &settings);
        tcflush(fd, TCIFLUSH);
        return fd;
    }
    return -1;
}

static unsigned sum_of(const char *text, size_t size)
{
    unsigned sum = 0;
    for (size_t i = 0; i < size; i++)
        sum += (unsigned char)text[i];
    return sum & 0xffff;
}

static long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000L + now.tv_nsec / 1000000L;
}

static int write_all(int fd, const char *text, size_t size, long until)
{
    while (size > 0) {
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        long left = until - now_ms();
        if (left <= 0 || poll(&ready, 1, (int)left) <= 0)
            return -1;
        ssize_t done = write(fd, text, size);
        if (done < 0 && errno != EAGAIN && errno != EINTR)
            return -1;
        if (done > 0) {
            text += done;
            size -= (size_t)done;
        }
    }
    return 0;
}

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

/* Is this line the answer to request `seq`? Then its code and payload. */
static int parse(char *line, const char *seq, int *code, unsigned char **out, size_t *out_size)
{
    char *start = strrchr(line, '=');
    if (!start)
        return 0;
    char *blank = strrchr(start, ' ');
    if (!blank || strlen(blank) != 5)
        return 0;
    if (sum_of(start, (size_t)(blank - start)) != strtoul(blank + 1, NULL, 16))
        return 0;
    *blank = 0;
    char *save = NULL;
    char *got_seq = strtok_r(start + 1, " ", &save);
    char *got_code = strtok_r(NULL, " ", &save);
    char *hex = strtok_r(NULL, " ", &save);
    if (!hex || strcmp(got_seq, seq) != 0)
        return 0;
    size_t size = strcmp(hex, "-") == 0 ? 0 : strlen(hex) / 2;
    unsigned char *bytes = malloc(size + 1);
    if (!bytes)
        return 0;
    for (size_t i = 0; i < size; i++) {
        int high = digit(hex[2 * i]), low = digit(hex[2 * i + 1]);
        if (high < 0 || low < 0) {
            free(bytes);
            return 0;
        }
        bytes[i] = (unsigned char)(high << 4 | low);
    }
    bytes[size] = 0; /* texts end here; not counted in the size */
    *code = atoi(got_code);
    *out = bytes;
    *out_size = size;
    return 1;
}

static int await(int fd, const char *seq, long until, unsigned char **out, size_t *out_size)
{
    size_t room = 4096, used = 0;
    char *line = malloc(room);
    int code = ZK_TIMEOUT;
    while (line) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        long left = until - now_ms();
        if (left <= 0 || poll(&ready, 1, (int)left) <= 0)
            break;
        char part[512];
        ssize_t got = read(fd, part, sizeof part);
        if (got < 0 && errno != EAGAIN && errno != EINTR)
            break;
        if (got <= 0) { /* hung up: the HSM may come back */
            usleep(20000);
            continue;
        }
        for (ssize_t i = 0; i < got; i++) {
            if (part[i] == '\n' || part[i] == '\r') {
                line[used] = 0;
                if (used > 0 && parse(line, seq, &code, out, out_size)) {
                    free(line);
                    return code;
                }
                used = 0;
            } else if (part[i] != 0) {
                if (used + 2 > room) {
                    char *larger = realloc(line, room *= 2);
                    if (!larger)
                        break;
                    line = larger;
                }
                line[used++] = part[i];
            }
        }
    }
    free(line);
    return ZK_TIMEOUT;
}

int zkline_ask(const char *verb, const void *data, size_t size, unsigned char **out,
               size_t *out_size)
{
    static unsigned count;
    const unsigned char *bytes = data;
    char seq[9];
    *out = NULL;
    *out_size = 0;
    int fd = open_line();
    if (fd < 0)
        return fail(ZK_NO_DEVICE, "no HSM found (-19)");
    unsigned random = (unsigned)getpid() * 2654435761u ^ (unsigned)time(NULL) ^ ++count << 20;
    snprintf(seq, sizeof seq, "%08x", random);
    char *line = malloc(2 * size + 64);
    if (!line) {
        close(fd);
        return fail(-ENOMEM, "out of memory");
    }
    int used = sprintf(line, "\n@%s %s ", seq, verb);
    if (size == 0)
        line[used++] = '-';
    for (size_t i = 0; i < size; i++)
        used += sprintf(line + used, "%02x", bytes[i]);
    used += sprintf(line + used, " %04x\n", sum_of(line + 1, (size_t)used - 1));
    long until = now_ms() + ANSWER_MS + (long)size / 4;
    int code = ZK_TIMEOUT;
    if (write_all(fd, line, (size_t)used, until) == 0)
        code = await(fd, seq, until, out, out_size);
    free(line);
    close(fd);
    if (code == ZK_TIMEOUT)
        return fail(code, "HSM does not answer (-110)");
    if (code < 0)
        return fail(code, *out && *out_size ? (const char *)*out : "HSM refused");
    return code;
}
