// Waits until it is told to end: what a service of the benchmark runs.
#include <signal.h>
#include <unistd.h>
static void end(int signal) { (void)signal; _exit(0); }
int main(int count, char **arguments) {
  (void)arguments;
  if (count > 1) return 0; // "sleeper x" ends at once: what `exec` runs
  signal(SIGTERM, end);
  for (;;) pause();
}
