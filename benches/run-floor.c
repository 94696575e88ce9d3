/* The kernel's floor under one container: clone into new namespaces, a private
 * root by pivot_root, a few mounts, and the execution of a static program; once,
 * as a whole process, like the runtimes it stands beside.
 *   floor ROOTFS PROGRAM
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void check(long result, const char *what) {
    if (result < 0) {
        perror(what);
        exit(125);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    long flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP | SIGCHLD;
    long pid = syscall(SYS_clone, flags, 0, 0, 0, 0);
    check(pid, "clone");
    if (pid == 0) {
        char *const none[] = {NULL};
        char *const program[] = {argv[2], NULL};
        check(mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL), "private");
        check(mount(argv[1], argv[1], NULL, MS_BIND | MS_REC, NULL), "bind");
        check(chdir(argv[1]), "chdir");
        check(syscall(SYS_pivot_root, ".", "."), "pivot_root");
        check(umount2(".", MNT_DETACH), "umount");
        check(chdir("/"), "chdir");
        check(mount("proc", "/proc", "proc", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL), "proc");
        check(mount("tmpfs", "/dev", "tmpfs", MS_NOSUID, "mode=755,size=64k"), "dev");
        check(mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RDONLY, NULL), "sys");
        execve(argv[2], program, none);
        _exit(127);
    }
    int status;
    check(waitpid(pid, &status, 0), "wait");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}
