/* recorder FILE: append numbered records, make each one last, then acknowledge it outside.
 *
 * An acknowledged number is a promise that the record survives: the harness holds the file against
 * it at the end. Acknowledgements ("R NUMBER") go to the serial line that the kernel command line
 * names as fwline=; without such a line there are records and no acknowledgements.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <termios.h>
#include <unistd.h>

#define PAUSE_US 50000

static int open_line(void)
{
    char cmdline[4096], path[64];
    FILE *file = fopen("/proc/cmdline", "r");
    size_t size = file ? fread(cmdline, 1, sizeof cmdline - 1, file) : 0;
    if (file)
        fclose(file);
    cmdline[size] = 0;
    char *word = strstr(cmdline, "fwline=");
    if (!word)
        return -1;
    snprintf(path, sizeof path, "/dev/%.*s", (int)strcspn(word + 7, " \n"), word + 7);
    int fd = open(path, O_WRONLY | O_NOCTTY | O_CLOEXEC);
    struct termios settings;
    if (fd >= 0 && tcgetattr(fd, &settings) == 0) {
        cfmakeraw(&settings);
        settings.c_cflag |= CLOCAL;
        cfsetspeed(&settings, B115200);
        tcsetattr(fd, TCSANOW, &settings);
    }
    return fd;
}

/* The last number in the file. A torn last line (power cut) is taken away: nobody was told of it. */
static long last_number(int fd)
{
    char tail[4096];
    off_t size = lseek(fd, 0, SEEK_END);
    off_t start = size > (off_t)sizeof tail - 1 ? size - ((off_t)sizeof tail - 1) : 0;
    ssize_t got = pread(fd, tail, (size_t)(size - start), start);
    if (got <= 0)
        return 0;
    tail[got] = 0;
    while (got > 0 && tail[got - 1] != '\n')
        tail[--got] = 0;
    if (ftruncate(fd, start + got) != 0 || got == 0)
        return 0;
    tail[got - 1] = 0;
    char *line = strrchr(tail, '\n');
    return strtol(line ? line + 1 : tail, NULL, 10);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    int fd = open(argv[1], O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0) {
        perror(argv[1]);
        return 1;
    }
    int line = open_line();
    for (long number = last_number(fd) + 1;; number++) {
        char text[48];
        int size = snprintf(text, sizeof text, "%ld record\n", number);
        if (write(fd, text, (size_t)size) != size || fsync(fd) != 0) {
            perror(argv[1]);
            return 1;
        }
        size = snprintf(text, sizeof text, "R %ld\n", number);
        if (line >= 0 && write(line, text, (size_t)size) != size)
            perror("acknowledge");
        usleep(PAUSE_US);
    }
}
