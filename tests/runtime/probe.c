/* What the kernel says to system calls of a process that is confined: one line
 * each, "NAME VERDICT". Calls are made in a child of their own, with arguments
 * that nothing can come of; a verdict is "refused" (EPERM), "missing" (ENOSYS),
 * or "passes" (anything else, also a child that does not come back).
 * The test that runs it and what it expects: defaults.rs. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int *answer;

/* longest: how many seconds one that does not come back is waited for, at last. */
static const char *verdict(long number, const long *a, unsigned longest) {
    enum { NOT_MADE = -2, NOT_BACK = -1 };
    unsigned patience = 1;
again:
    *answer = NOT_MADE;
    pid_t child = fork();
    if (child == 0) {
        alarm(patience);
        *answer = NOT_BACK;
        errno = 0;
        long result = syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
        *answer = result < 0 ? errno : 0;
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    /* On a busy machine the time may be over before the call, or its answer. */
    if (*answer == NOT_MADE || (*answer == NOT_BACK && patience < longest)) {
        patience *= 8;
        goto again;
    }
    return *answer == EPERM ? "refused" : *answer == ENOSYS ? "missing" : "passes";
}

struct call {
    const char *name;
    long number;
    long arguments[6];
};

#define NS_FLAGS(name, flag) {"clone(" name ")", SYS_clone, {flag | SIGCHLD}}

/* The conditions of the profile. */
static const struct call conditional[] = {
    {"clone()", SYS_clone, {SIGCHLD}},
    NS_FLAGS("newns", CLONE_NEWNS), NS_FLAGS("newuts", CLONE_NEWUTS), NS_FLAGS("newipc", CLONE_NEWIPC),
    NS_FLAGS("newuser", CLONE_NEWUSER), NS_FLAGS("newpid", CLONE_NEWPID), NS_FLAGS("newnet", CLONE_NEWNET),
    NS_FLAGS("newcgroup", CLONE_NEWCGROUP),
    {"clone3", SYS_clone3, {0, 0}},
    {"unshare(0)", SYS_unshare, {0}},
    {"unshare(newuser)", SYS_unshare, {CLONE_NEWUSER}},
    {"personality(0)", SYS_personality, {0}},
    {"personality(linux32)", SYS_personality, {8}},
    {"personality(uname26)", SYS_personality, {0x20000}},
    {"personality(uname26 linux32)", SYS_personality, {0x20008}},
    {"personality(query)", SYS_personality, {0xffffffff}},
    {"personality(addr-no-randomize)", SYS_personality, {0x40000}},
    {"socket(unix)", SYS_socket, {AF_UNIX, SOCK_STREAM, 0}},
    {"socket(inet)", SYS_socket, {AF_INET, SOCK_STREAM, 0}},
    {"socket(inet6)", SYS_socket, {AF_INET6, SOCK_STREAM, 0}},
    {"socket(netlink)", SYS_socket, {AF_NETLINK, SOCK_RAW, 0}},
    {"socket(packet)", SYS_socket, {AF_PACKET, SOCK_RAW, 0}},
    {"socket(alg)", SYS_socket, {AF_ALG, SOCK_SEQPACKET, 0}},
    {"socket(nfc)", SYS_socket, {39, SOCK_STREAM, 0}},
    {"socket(vsock)", SYS_socket, {AF_VSOCK, SOCK_STREAM, 0}},
    {"socket(kcm)", SYS_socket, {41, SOCK_DGRAM, 0}},
    {"ptrace(peek)", SYS_ptrace, {3, -1}},
};

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    answer = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (answer == MAP_FAILED) return 1;
    for (unsigned i = 0; i < sizeof conditional / sizeof *conditional; i++)
        printf("%s %s\n", conditional[i].name, verdict(conditional[i].number, conditional[i].arguments, 64));
    /* Every number there is; some of them wait for a signal. */
    const long nothing[6] = {-1, -1, -1, -1, -1, -1};
    for (long number = 0; number < 480; number++) {
        if (number == SYS_fork || number == SYS_vfork || number == SYS_clone || number == SYS_clone3) continue;
        printf("%ld %s\n", number, verdict(number, nothing, 8));
    }
    return 0;
}
