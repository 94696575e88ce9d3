//! What the container sees: root file system, mounts, devices.

use std::fs;
use std::path::Path;

use rcompose::runtime::{Device, Populate, bind_mount, tmpfs_mount};

use crate::support::container;

#[test]
fn the_root_is_private_and_writable() {
    let Some(mut container) = container() else { return };
    let run = container.sh("echo new > /opt/new; rm /etc/group; cat /opt/new; stat -c %a /");
    assert_eq!(run.stdout, "new\n755\n");
    assert_eq!(
        fs::read_to_string(container.path("upper/opt/new")).unwrap(),
        "new\n"
    );
    // A second run goes on where the first one was.
    assert_eq!(container.sh("cat /opt/new; ls /etc").stdout, "new\npasswd\n");
}

#[test]
fn a_read_only_root_is_read_only_and_its_mounts_are_not() {
    let Some(mut container) = container() else { return };
    container.readonly = true;
    container.settings.cwd = "/made".into();
    container.settings.mounts = vec![tmpfs_mount("/run", &["mode=700", "size=4096"])];
    let run = container
        .sh("pwd; touch /opt/x; touch /run/x && echo run; touch /dev/shm/x && echo shm; stat -c %a /run");
    assert_eq!(run.stdout, "/made\nrun\nshm\n700\n");
    assert!(
        run.stderr.contains("touch: /opt/x: Read-only file system"),
        "{}",
        run.stderr
    );
}

#[test]
fn binds_of_files_and_folders() {
    let Some(mut container) = container() else { return };
    fs::create_dir(container.path("share")).unwrap();
    fs::write(container.path("share/a"), "a\n").unwrap();
    fs::write(container.path("file"), "file\n").unwrap();
    container.settings.mounts = vec![
        bind_mount(&container.path("share"), "/deep/share", &[]),
        bind_mount(&container.path("share"), "/ro", &["ro"]),
        bind_mount(&container.path("file"), "/etc/new.conf", &["rro"]),
        bind_mount(&container.path("file"), "/etc/passwd", &[]),
    ];
    let run = container.sh("cat /deep/share/a /etc/new.conf /etc/passwd; echo b > /deep/share/b; cat /ro/b; touch /ro/x; echo x > /etc/new.conf");
    assert_eq!(run.stdout, "a\nfile\nfile\nb\n");
    assert!(run.stderr.contains("/ro/x: Read-only file system"));
    assert!(run.stderr.contains("/etc/new.conf: Read-only file system"));
    assert_eq!(fs::read_to_string(container.path("share/b")).unwrap(), "b\n");
    container.settings.mounts = vec![bind_mount(Path::new("/nosuch/source"), "/x", &[])];
    let error = container.start(&["true"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "mount /nosuch/source on /x: no such file or directory"
    );
    container.settings.mounts = vec![bind_mount(&container.path("file"), "/opt", &[])];
    let error = container.start(&["true"]).unwrap_err();
    assert_eq!(error.to_string(), "mount /opt: is a directory");
}

#[test]
fn a_link_in_the_image_leads_inside() {
    let Some(mut container) = container() else { return };
    fs::write(container.path("file"), "resolver\n").unwrap();
    container.layer(|layer| {
        fs::create_dir(layer.join("etc")).unwrap();
        std::os::unix::fs::symlink("../run/resolve/stub.conf", layer.join("etc/resolv.conf")).unwrap();
    });
    container.settings.mounts = vec![bind_mount(&container.path("file"), "/etc/resolv.conf", &["ro"])];
    let run = container.sh("cat /etc/resolv.conf /run/resolve/stub.conf");
    assert_eq!(run.stdout, "resolver\nresolver\n");
}

#[test]
fn kernel_file_systems_are_guarded() {
    let Some(mut container) = container() else { return };
    let run = container.sh(
        "for f in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts; do [ -e $f ] && wc -c < $f; done | sort -u; ls /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/panic; echo 1 > /sys/kernel/x; touch /sys/fs/cgroup/x; mkdir /proc/x; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range",
    );
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines, ["0", "0", "0", "0\t2147483647"]);
    assert_eq!(
        run.stderr.matches("Read-only file system").count(),
        3,
        "{}",
        run.stderr
    );
}

#[test]
fn the_cgroup_view_is_the_containers_own() {
    let Some(mut container) = container() else { return };
    let run = container.sh("cd /sys/fs/cgroup; find . -maxdepth 2 -name cgroup.procs | wc -l; f=$(find . -maxdepth 2 -name cgroup.procs | head -1); cat $f | head -1; mount | grep -c '/sys/fs/cgroup.*cgroup.*(ro'");
    let lines: Vec<&str> = run.stdout.lines().collect();
    let hierarchies: u32 = lines[0].parse().unwrap();
    assert!(hierarchies >= 1);
    assert_eq!(lines[1], "1");
    assert!(lines[2].parse::<u32>().unwrap() >= hierarchies);
}

#[test]
fn devices_are_the_usual_ones_and_those_given() {
    let Some(mut container) = container() else { return };
    let run = container.sh("ls /dev | grep -v core | tr '\\n' ' '; head -c 3 /dev/zero | wc -c; echo x > /dev/null; readlink /dev/fd; readlink /dev/ptmx; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2; mknod /tmp/mem c 1 1; cat /tmp/mem");
    assert_eq!(
        run.stdout,
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero 3\n/proc/self/fd\npts/ptmx\n65536\n"
    );
    assert!(
        run.stderr
            .contains("cat: can't open '/tmp/mem': Operation not permitted"),
        "{}",
        run.stderr
    );
    container.settings.shm_size = Some(1 << 20);
    container.settings.devices = vec![Device {
        host: "/dev/zero".into(),
        container: "/dev/deep/mine".into(),
        access: "r".into(),
    }];
    let run = container
        .sh("df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2; head -c 2 /dev/deep/mine | wc -c");
    assert_eq!(run.stdout, "1024\n2\n");
}

#[test]
fn a_fresh_volume_is_filled_from_the_image() {
    let Some(mut container) = container() else { return };
    let (data, marker) = (container.path("volume/data"), container.path("volume/populated"));
    fs::create_dir_all(&data).unwrap();
    for round in ["from the image\n", "from the image\nmine\n"] {
        container.settings.mounts = vec![bind_mount(&data, "/srv/data", &[])];
        let populate = Populate {
            destination: "/srv/data".into(),
            source: data.clone(),
            marker: marker.clone(),
        };
        container.on_request(move |request| request.populate = vec![populate]);
        let run = container.sh("cat /srv/data/file; cat /srv/data/sub/deep; echo mine >> /srv/data/file");
        assert_eq!(run.stdout, format!("{round}deep\n"));
    }
}

#[test]
fn a_place_inside_a_volume_does_not_lead_out_of_it() {
    let Some(mut container) = container() else { return };
    let volume = container.path("volume");
    fs::create_dir_all(volume.join("etc")).unwrap();
    fs::write(volume.join("etc/hostname"), "the volume's\n").unwrap();
    std::os::unix::fs::symlink("/etc", volume.join("evil")).unwrap();
    container.settings.mounts = vec![bind_mount(Path::new("evil/hostname"), "/x", &[])];
    container.on_request(move |request| {
        request.confined.insert("/x".into(), volume);
    });
    assert_eq!(container.run(&["cat", "/x"]).stdout, "the volume's\n");
}

#[test]
fn the_hosts_own_files_are_an_image() {
    let Some(mut container) = container() else { return };
    container.only_layer(Path::new("/"));
    let marker = format!("/rcompose-test-{}", std::process::id());
    let hidden = container.path("upper");
    let run = container.sh(&format!(
        "cat /etc/os-release > /dev/null && echo host; echo x > {marker} && cat {marker}; ls {} 2>&1 | grep -c 'No such file'",
        hidden.display()
    ));
    assert_eq!(run.stdout, "host\nx\n1\n", "{}", run.stderr);
    assert!(!Path::new(&marker).exists());
    // And again over the same writable layer.
    assert_eq!(container.sh(&format!("cat {marker}")).stdout, "x\n");
}

#[test]
fn an_image_without_layers_and_one_with_many() {
    let Some(mut container) = container() else { return };
    for number in 0..60 {
        container.layer(|layer| {
            fs::write(layer.join(format!("f{number}")), "").unwrap();
            fs::write(layer.join("top"), format!("{number}\n")).unwrap();
        });
    }
    assert_eq!(container.sh("ls / | grep -c ^f; cat /top").stdout, "60\n59\n");
    container.on_request(|request| {
        let rcompose::runtime::Rootfs::Overlay { layers, .. } = &mut request.rootfs else {
            panic!("a stack's root is an overlay")
        };
        layers.clear();
    });
    let error = container.start(&["/bin/true"]).unwrap_err();
    assert_eq!(error.to_string(), "exec /bin/true: no such file or directory");
}

#[test]
fn parameters_of_its_own_namespaces() {
    let Some(mut container) = container() else { return };
    container
        .settings
        .sysctls
        .insert("net.core.somaxconn".into(), "77".into());
    container
        .settings
        .sysctls
        .insert("kernel.shmmni".into(), "99".into());
    let before = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let run = container.sh("cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shmmni");
    assert_eq!(run.stdout, "77\n99\n");
    assert_eq!(
        fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap(),
        before
    );
}
