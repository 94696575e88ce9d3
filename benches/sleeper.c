// Waits until it is told to end: what a service of the benchmarks runs. With
// MARK it first writes that to /out/mark, by which it is seen to run.
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static void end(int signal) { (void)signal; _exit(0); }
int main(int count, char **arguments) {
  (void)arguments;
  if (count > 1) return 0; // "sleeper x" ends at once: what `exec` and probes run
  signal(SIGTERM, end);
  const char *mark = getenv("MARK");
  if (mark) {
    int file = open("/out/mark", O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (file < 0 || write(file, mark, strlen(mark)) < 0) return 1;
    close(file);
  }
  for (;;) pause();
}
