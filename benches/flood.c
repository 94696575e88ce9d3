// A program that prints as fast as it can, and the least that somebody does who
// keeps what it prints.
//   flood LINES     prints so many lines of 100 bytes; how long that took, in
//                   seconds, on standard error
//   flood LINES FILE  does so into a pipe of 1 MiB that a second process empties
//                   into that file
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }

static int put(int to, const char *from, ssize_t length) {
  while (length > 0) {
    ssize_t written = write(to, from, length);
    if (written < 0) return -1;
    from += written; length -= written;
  }
  return 0;
}

static int flood(int to, long lines) {
  static char block[640 * 100];
  for (long number = 0; number < lines;) {
    char *at = block;
    for (int line = 0; line < 640 && number < lines; line++, number++, at += 100) {
      int length = sprintf(at, "%010ld ", number);
      memset(at + length, 'x', 99 - length);
      at[99] = '\n';
    }
    if (put(to, block, at - block)) return 1;
  }
  return 0;
}

int main(int count, char **arguments) {
  static char buffer[1 << 20];
  if (count < 2) return 2;
  long lines = atol(arguments[1]);
  double begun = now();
  if (count == 2) {
    int status = flood(1, lines);
    fprintf(stderr, "%.3f\n", now() - begun);
    return status;
  }
  int ends[2], file = open(arguments[2], O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
  if (file < 0 || pipe(ends) || fcntl(ends[1], F_SETPIPE_SZ, 1 << 20) < 0) return 1;
  if (!fork()) { close(ends[0]); _exit(flood(ends[1], lines)); }
  close(ends[1]);
  ssize_t length;
  while ((length = read(ends[0], buffer, sizeof buffer)) > 0) if (put(file, buffer, length)) return 1;
  fprintf(stderr, "%.3f\n", now() - begun);
  int status;
  return wait(&status) < 0 || status;
}
