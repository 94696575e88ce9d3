/* The kernel's floor under one container: clone into new namespaces, a private
 * root by pivot_root, a few mounts, and the execution of a static program; once,
 * as a whole process, like the runtimes it stands beside.
 *   floor ROOTFS PROGRAM               waits for the program's end
 *   floor ROOTFS PROGRAM NAME PID      puts it in a cgroup of every hierarchy,
 *                                      below "floor", writes its number to the
 *                                      file PID and leaves it to itself
 *   floor --end NAME                   removes those cgroups
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void check(long result, const char *what) {
    if (result < 0) {
        perror(what);
        exit(125);
    }
}

static const char *const hierarchies = "/sys/fs/cgroup";

/* Copies a file of a cpuset to the folder below it. */
static void inherit(const char *from, const char *to, const char *file) {
    char path[512], text[256];
    snprintf(path, sizeof path, "%s/%s", from, file);
    int in = open(path, O_RDONLY);
    if (in < 0) return;
    ssize_t length = read(in, text, sizeof text);
    close(in);
    snprintf(path, sizeof path, "%s/%s", to, file);
    int out = open(path, O_WRONLY);
    if (out < 0 || length < 0 || write(out, text, length) != length) check(-1, path);
    close(out);
}

/* Calls `step` with the folder of that name in every hierarchy; one that has no
 * other is version 2. */
static void each(const char *name, void (*step)(const char *root, const char *above, const char *folder)) {
    char root[300], above[350], folder[450];
    if (!access("/sys/fs/cgroup/cgroup.controllers", F_OK)) {
        snprintf(above, sizeof above, "%s/floor", hierarchies);
        snprintf(folder, sizeof folder, "%s/%s", above, name);
        step(hierarchies, above, folder);
        return;
    }
    DIR *all = opendir(hierarchies);
    struct dirent *entry;
    while (all && (entry = readdir(all))) {
        if (entry->d_name[0] == '.' || entry->d_type != DT_DIR) continue;
        snprintf(root, sizeof root, "%s/%s", hierarchies, entry->d_name);
        snprintf(above, sizeof above, "%s/tasks", root);
        if (access(above, F_OK) || strstr(root, "systemd")) continue;
        snprintf(above, sizeof above, "%s/floor", root);
        snprintf(folder, sizeof folder, "%s/%s", above, name);
        step(root, above, folder);
    }
    closedir(all);
}

static void make(const char *root, const char *above, const char *folder) {
    if (mkdir(above, 0755) == 0) {
        inherit(root, above, "cpuset.cpus");
        inherit(root, above, "cpuset.mems");
    }
    check(mkdir(folder, 0755), folder);
    inherit(above, folder, "cpuset.cpus");
    inherit(above, folder, "cpuset.mems");
}

static void join(const char *root, const char *above, const char *folder) {
    (void)root; (void)above;
    char path[512];
    snprintf(path, sizeof path, "%s/tasks", folder);
    if (access(path, F_OK)) snprintf(path, sizeof path, "%s/cgroup.procs", folder);
    int file = open(path, O_WRONLY);
    check(file < 0 ? -1 : write(file, "0", 1), path);
    close(file);
}

static void end(const char *root, const char *above, const char *folder) {
    (void)root;
    for (int tries = 0; rmdir(folder) && tries < 1000; tries++) usleep(1000);
    rmdir(above);
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "--end")) {
        each(argv[2], end);
        return 0;
    }
    if (argc != 3 && argc != 5) return 2;
    int begun[2];
    check(pipe2(begun, O_CLOEXEC), "pipe");
    if (argc == 5) each(argv[3], make);
    long flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP | SIGCHLD;
    long pid = syscall(SYS_clone, flags, 0, 0, 0, 0);
    check(pid, "clone");
    if (pid == 0) {
        char *const none[] = {NULL};
        char *const program[] = {argv[2], argc == 5 ? "10000" : NULL, NULL};
        if (argc == 5) each(argv[3], join);
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
    if (argc == 5) {
        char byte;
        close(begun[1]);
        if (read(begun[0], &byte, 1) != 0) return 125; /* closed by execve */
        FILE *file = fopen(argv[4], "w");
        if (!file || fprintf(file, "%ld", pid) < 0 || fclose(file)) return 125;
        return 0;
    }
    int status;
    check(waitpid(pid, &status, 0), "wait");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}
