//! One container: root file system, namespaces, cgroup, exec.
