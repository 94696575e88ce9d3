// What the kernel alone asks for a stack: N containers of one network, set up
// by WORKERS processes and taken down again, with nothing around it.
//   floor N WORKERS ROOTFS WORK      prints "UP_MS DOWN_MS"
// Each container: clone into new mnt, pid, uts, ipc, net and cgroup namespaces,
// three cgroups (v1) or one (v2), overlay, pivot_root, /proc, /dev, a veth on a
// bridge with address and default route, exec. Run as root in a network
// namespace of its own.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what) { fprintf(stderr, "floor: %s: %s\n", what, strerror(errno)); _exit(1); }
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e3 + t.tv_nsec / 1e6; }

// --- netlink -----------------------------------------------------------------
struct message { struct nlmsghdr head; char body[1024]; };
static void *put(struct message *m, const void *data, size_t size) {
  void *at = (char *)m + NLMSG_ALIGN(m->head.nlmsg_len);
  if (data) memcpy(at, data, size);
  m->head.nlmsg_len = NLMSG_ALIGN(m->head.nlmsg_len) + NLMSG_ALIGN(size);
  return at;
}
static struct rtattr *attribute(struct message *m, int type, const void *data, size_t size) {
  struct rtattr *a = put(m, NULL, sizeof *a);
  a->rta_type = type; a->rta_len = RTA_LENGTH(size);
  if (size) put(m, data, size);
  return a;
}
static void nested(struct message *m, struct rtattr *a) { a->rta_len = (char *)m + NLMSG_ALIGN(m->head.nlmsg_len) - (char *)a; }
static struct message begin(int type, int flags, const void *data, size_t size) {
  struct message m = {.head = {.nlmsg_len = NLMSG_HDRLEN, .nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags}};
  put(&m, data, size);
  return m;
}
static int route_socket(void) { int s = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE); if (s < 0) fail("netlink"); return s; }
static void talk(int s, struct message *m, const char *what) {
  char answer[4096];
  if (send(s, m, m->head.nlmsg_len, 0) < 0 || recv(s, answer, sizeof answer, 0) < 0) fail(what);
  struct nlmsgerr *e = NLMSG_DATA((struct nlmsghdr *)answer);
  if (e->error) { errno = -e->error; fail(what); }
}
static void link_up(int s, const char *name) {
  struct ifinfomsg i = {.ifi_index = if_nametoindex(name), .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
  struct message m = begin(RTM_NEWLINK, 0, &i, sizeof i); talk(s, &m, "link up");
}
static void address(int s, const char *name, unsigned ip) {
  struct ifaddrmsg a = {.ifa_family = AF_INET, .ifa_prefixlen = 16, .ifa_index = if_nametoindex(name)};
  struct message m = begin(RTM_NEWADDR, NLM_F_CREATE, &a, sizeof a);
  attribute(&m, IFA_LOCAL, &ip, 4); attribute(&m, IFA_ADDRESS, &ip, 4); talk(s, &m, "address");
}
static int bridge(int s) {
  struct ifinfomsg i = {0}; struct message m = begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &i, sizeof i);
  attribute(&m, IFLA_IFNAME, "floor0", 7);
  struct rtattr *info = attribute(&m, IFLA_LINKINFO, NULL, 0); attribute(&m, IFLA_INFO_KIND, "bridge", 6); nested(&m, info);
  talk(s, &m, "bridge"); link_up(s, "floor0"); address(s, "floor0", inet_addr("10.99.0.1"));
  return if_nametoindex("floor0");
}
static void veth(int s, int master, int number, int pid) {
  char name[16]; sprintf(name, "fl%d", number);
  struct ifinfomsg i = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP}, peer = {0};
  struct message m = begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &i, sizeof i);
  attribute(&m, IFLA_IFNAME, name, strlen(name) + 1); attribute(&m, IFLA_MASTER, &master, 4);
  struct rtattr *info = attribute(&m, IFLA_LINKINFO, NULL, 0); attribute(&m, IFLA_INFO_KIND, "veth", 4);
  struct rtattr *data = attribute(&m, IFLA_INFO_DATA, NULL, 0), *other = attribute(&m, VETH_INFO_PEER, NULL, 0);
  put(&m, &peer, sizeof peer); attribute(&m, IFLA_IFNAME, "eth0", 5); attribute(&m, IFLA_NET_NS_PID, &pid, 4);
  nested(&m, other); nested(&m, data); nested(&m, info); talk(s, &m, "veth");
}
static void default_route(int s) {
  struct rtmsg r = {.rtm_family = AF_INET, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_BOOT, .rtm_scope = RT_SCOPE_UNIVERSE, .rtm_type = RTN_UNICAST};
  struct message m = begin(RTM_NEWROUTE, NLM_F_CREATE, &r, sizeof r); unsigned via = inet_addr("10.99.0.1");
  attribute(&m, RTA_GATEWAY, &via, 4); talk(s, &m, "route");
}

// --- one container -------------------------------------------------------------
static const char *groups[4]; static int group_count;
static const char *rootfs, *work;
struct one { int number, go; };
static void folder(char *path, int number, const char *part) { sprintf(path, "%s/%d%s", work, number, part); }
static int inside(void *given) {
  struct one *one = given; char at[512], upper[512], scratch[512], options[2048], go;
  if (read(one->go, &go, 1) != 1) _exit(1);
  if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) fail("private");
  folder(at, one->number, "/m"); folder(upper, one->number, "/u"); folder(scratch, one->number, "/w");
  snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s", rootfs, upper, scratch);
  if (mount("overlay", at, "overlay", 0, options)) fail("overlay");
  if (chdir(at) || syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH)) fail("pivot_root");
  if (mount("proc", "/proc", "proc", 0, NULL) || mount("tmpfs", "/dev", "tmpfs", 0, "mode=755")) fail("mount");
  sethostname("x", 1);
  int s = route_socket(); link_up(s, "lo"); address(s, "eth0", htonl((10 << 24) | (99 << 16) | (one->number + 2))); link_up(s, "eth0"); default_route(s); close(s);
  char *arguments[] = {"/bin/sleeper", NULL}; execv(arguments[0], arguments); fail("exec");
  return 1;
}
static int start(int s, int master, int number, char *stack) {
  int go[2], ended[2]; char path[512]; struct one one = {number, 0};
  if (pipe2(go, O_CLOEXEC) || pipe2(ended, O_CLOEXEC)) fail("pipe");
  one.go = go[0];
  for (const char *const *part = (const char *const[]){"", "/u", "/w", "/m", NULL}; *part; part++) { folder(path, number, *part); mkdir(path, 0755); }
  int pid = clone(inside, stack + 65536, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP | SIGCHLD, &one);
  if (pid < 0) fail("clone");
  close(go[0]); close(ended[1]);
  for (int g = 0; g < group_count; g++) {
    char text[16]; sprintf(path, "%s/%d", groups[g], number); if (mkdir(path, 0755) && errno != EEXIST) fail(path);
    strcat(path, "/cgroup.procs"); int f = open(path, O_WRONLY), n = sprintf(text, "%d", pid);
    if (f < 0 || write(f, text, n) != n) fail(path);
    close(f);
  }
  veth(s, master, number, pid);
  if (write(go[1], "x", 1) != 1) fail("go");
  close(go[1]);
  char byte; while (read(ended[0], &byte, 1) > 0) {} // closed by exec
  close(ended[0]);
  return pid;
}
static void clean(int number) {
  char path[512];
  for (int g = 0; g < group_count; g++) { sprintf(path, "%s/%d", groups[g], number); for (int k = 0; rmdir(path) && k < 1000; k++) usleep(100); }
  for (const char *const *part = (const char *const[]){"/w/work", "/w", "/u/dev", "/u/proc", "/u", "/m", "", NULL}; *part; part++) { folder(path, number, *part); rmdir(path); }
}
int main(int count, char **arguments) {
  if (count != 5) { fprintf(stderr, "usage: floor N WORKERS ROOTFS WORK\n"); return 2; }
  int n = atoi(arguments[1]), workers = atoi(arguments[2]); rootfs = arguments[3]; work = arguments[4];
  if (!access("/sys/fs/cgroup/cgroup.controllers", F_OK)) groups[group_count++] = "/sys/fs/cgroup/floor";
  else { groups[group_count++] = "/sys/fs/cgroup/memory/floor"; groups[group_count++] = "/sys/fs/cgroup/pids/floor"; groups[group_count++] = "/sys/fs/cgroup/cpu/floor"; }
  for (int g = 0; g < group_count; g++) mkdir(groups[g], 0755);
  mkdir(work, 0755);
  int s = route_socket(), master = bridge(s), stop[2], done[2], children[64]; char byte;
  int *pids = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (pipe(stop) || pipe(done) || workers > 64 || n > 16000) fail("pipe");
  double begun = now();
  for (int k = 0; k < workers; k++) if (!(children[k] = fork())) {
    char *stack = malloc(65536); close(stop[1]); int own = route_socket();
    for (int i = k; i < n; i += workers) pids[i] = start(own, master, i, stack);
    if (write(done[1], "u", 1) != 1 || read(stop[0], &byte, 1) < 0) fail("pipe");
    for (int i = k; i < n; i += workers) kill(pids[i], SIGKILL);
    for (int i = k; i < n; i += workers) { waitpid(pids[i], NULL, 0); clean(i); }
    _exit(0);
  }
  for (int k = 0; k < workers; k++) if (read(done[0], &byte, 1) != 1) fail("worker");
  double up = now(); close(stop[0]); close(stop[1]);
  for (int k = 0; k < workers; k++) waitpid(children[k], NULL, 0);
  double down = now(); printf("%.2f %.2f\n", up - begun, down - up);
  for (int g = 0; g < group_count; g++) rmdir(groups[g]);
  rmdir(work);
  return 0;
}
