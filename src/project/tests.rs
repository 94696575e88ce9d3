//! Whole loads of small stacks, over files in memory.

mod answers;
mod everything;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::stack::{Code, Diagnostic, FileKind, Files, Severity};

/// Files in memory; folders are what they are in.
#[derive(Default)]
struct MemoryFiles(BTreeMap<PathBuf, Vec<u8>>);

impl Files for MemoryFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0
            .get(path)
            .cloned()
            .ok_or_else(|| io::Error::from_raw_os_error(2))
    }

    fn kind(&self, path: &Path) -> Option<FileKind> {
        if self.0.contains_key(path) {
            return Some(FileKind::File);
        }
        let is_folder = self.0.keys().any(|file| file.starts_with(path));
        is_folder.then_some(FileKind::Folder)
    }
}

fn files(list: &[(&str, &str)]) -> MemoryFiles {
    let at = |path: &str| Path::new("/p").join(path);
    MemoryFiles(
        list.iter()
            .map(|(path, text)| (at(path), text.as_bytes().to_vec()))
            .collect(),
    )
}

fn request(environment: &[(&str, &str)]) -> LoadRequest {
    LoadRequest {
        cwd: "/p".into(),
        environment: environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..LoadRequest::default()
    }
}

fn try_load(list: &[(&str, &str)]) -> Result<Loaded, LoadFailure> {
    load(&request(&[("HOME", "/home/u")]), &files(list))
}

fn loaded(text: &str) -> Loaded {
    try_load(&[("compose.yaml", text)]).unwrap_or_else(|failure| panic!("{failure}"))
}

/// The service `a` of a stack with only that one.
fn service(fields: &str) -> Service {
    let mut text = "services:\n  a:\n    image: i\n".to_owned();
    for line in fields.lines() {
        let _ = writeln!(text, "    {line}");
    }
    loaded(&text).project.services.remove("a").unwrap()
}

fn refusals(text: &str) -> Vec<Diagnostic> {
    let failure = try_load(&[("compose.yaml", text)]).expect_err("is accepted");
    failure.diagnostics
}

/// The messages of a stack that is refused, with their places.
fn complaints(text: &str) -> Vec<String> {
    refusals(text)
        .into_iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error)
        .map(|diagnostic| match diagnostic.origin {
            Some(origin) => format!("{}:{} {}", origin.line, origin.column, diagnostic.message),
            None => diagnostic.message,
        })
        .collect()
}

/// The one complaint about the service `a` of a stack with only that one.
fn complaint(fields: &str) -> String {
    let mut text = "services:\n  a:\n    image: i\n".to_owned();
    for line in fields.lines() {
        let _ = writeln!(text, "    {line}");
    }
    let complaints = complaints(&text);
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
    complaints.into_iter().next().unwrap()
}

#[test]
fn every_supported_field_arrives() {
    let project = loaded(
        r#"
name: full
services:
  db: {image: "oci:./img:v1", networks: [back]}
  web:
    image: nginx:1.27
    command: run "a b"
    entrypoint: ["/e"]
    environment: {A: 1, B: true, C: , D: "x=y"}
    working_dir: /w
    user: "1:2"
    volumes:
      - data:/data:ro,nocopy
      - ./src:/src
      - /anon
      - {type: tmpfs, target: /t, tmpfs: {size: 1m, mode: 0o700}}
      - {type: bind, source: ~/x, target: /x, bind: {create_host_path: false, propagation: rslave}}
    tmpfs: "/run:size=64k,noexec,uid=5"
    networks:
      back: {aliases: [w], ipv4_address: 10.9.0.5, mac_address: 02-00-00-00-00-01, priority: 7, gw_priority: 2}
      default:
    ports: ["127.0.0.1:8080-8081:80-81/udp", {target: 90, published: 9000-9010}]
    expose: [3000, "53/udp"]
    extra_hosts: ["h=1.2.3.4,::1", "g:5.6.7.8"]
    depends_on: {db: {condition: service_healthy, restart: true}}
    healthcheck: {test: curl x, interval: 5s, retries: 2, start_period: 1m, start_interval: 1s}
    restart: on-failure:3
    mem_limit: 64m
    memswap_limit: -1
    cpus: 1.5
    cpu_shares: 512
    cpuset: 0-1
    pids_limit: 99
    hostname: h
    domainname: d
    read_only: true
    cap_add: [net_admin, CAP_SYS_PTRACE]
    cap_drop: [ALL]
    init: true
    tty: true
    stdin_open: true
    group_add: [audio, 44]
    sysctls: {net.core.somaxconn: 1024}
    ulimits: {nproc: 65535, nofile: {soft: 1, hard: -1}}
    security_opt: ["no-new-privileges:true"]
    shm_size: 1g
    stop_signal: SIGQUIT
    stop_grace_period: 1m30s
    labels: [a=b, c]
    pull_policy: if_not_present
    scale: 1
networks:
  back:
    internal: true
    enable_ipv6: true
    ipam: {config: [{subnet: 10.9.0.0/24, gateway: 10.9.0.1, ip_range: 10.9.0.128/25}]}
    labels: {x: y}
volumes:
  data: {labels: {v: 1}}
"#,
    )
    .project;
    assert_eq!(project.name, "full");
    assert_eq!(project.working_dir, Path::new("/p"));
    assert_eq!(project.config_files, [PathBuf::from("/p/compose.yaml")]);
    assert!(project.inputs.contains(&"/p/compose.yaml".into()) && project.inputs.contains(&"/p/.env".into()));
    assert_eq!(project.services["db"].image, "oci:/p/img:v1");
    let web = &project.services["web"];
    let mount = |target: &str| web.volumes.iter().find(|mount| mount.target == target).unwrap();
    assert_eq!(
        *mount("/data"),
        Mount {
            target: "/data".into(),
            source: MountSource::Volume {
                volume: "data".into(),
                nocopy: true,
                subpath: None
            },
            read_only: true,
            ..Mount::default()
        }
    );
    assert_eq!(
        mount("/src").source,
        MountSource::Bind {
            path: "/p/src".into(),
            create_host_path: true,
            propagation: None,
            recursive: BindRecursive::Enabled,
            selinux: None,
        }
    );
    assert_eq!(
        mount("/x").source,
        MountSource::Bind {
            path: "/home/u/x".into(),
            create_host_path: false,
            propagation: Some(Propagation::Rslave),
            recursive: BindRecursive::Enabled,
            selinux: None,
        }
    );
    assert_eq!(mount("/anon").source, MountSource::Anonymous);
    assert_eq!(
        mount("/t").source,
        MountSource::Tmpfs {
            size: Some(1 << 20),
            mode: Some(0o700),
            options: vec![]
        }
    );
    assert_eq!(
        mount("/run").source,
        MountSource::Tmpfs {
            size: Some(65536),
            mode: None,
            options: vec!["noexec".into(), "uid=5".into()]
        }
    );
    let back = &web.networks["back"];
    assert_eq!(back.ipv4_address, Some([10, 9, 0, 5].into()));
    assert_eq!(back.mac_address.as_deref(), Some("02:00:00:00:00:01"));
    assert_eq!((back.priority, back.gw_priority), (7, 2));
    assert_eq!(back.aliases, ["w"]);
    assert_eq!(web.networks["default"], Attachment::default());
    let loopback: IpAddr = [127, 0, 0, 1].into();
    let port = |target, published, host_ip, protocol| Port {
        target,
        published,
        host_ip,
        protocol,
        ..Port::default()
    };
    assert_eq!(
        web.ports,
        [
            port(80, Some((8080, 8080)), Some(loopback), Protocol::Udp),
            port(81, Some((8081, 8081)), Some(loopback), Protocol::Udp),
            port(90, Some((9000, 9010)), None, Protocol::Tcp),
        ]
    );
    let expected = Service {
        name: "web".into(),
        image: "nginx:1.27".into(),
        command: Some(vec!["run".into(), "a b".into()]),
        entrypoint: Some(vec!["/e".into()]),
        environment: [("A", "1"), ("B", "true"), ("D", "x=y")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        working_dir: Some("/w".into()),
        user: Some("1:2".into()),
        hostname: Some("h".into()),
        domainname: Some("d".into()),
        labels: [("a", "b"), ("c", "")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        volumes: web.volumes.clone(),
        networks: web.networks.clone(),
        network_mode: NetworkMode::Networks,
        ports: web.ports.clone(),
        expose: vec!["3000".into(), "53/udp".into()],
        extra_hosts: [
            (
                "h".to_owned(),
                vec!["1.2.3.4".parse().unwrap(), "::1".parse().unwrap()],
            ),
            ("g".to_owned(), vec!["5.6.7.8".parse().unwrap()]),
        ]
        .into(),
        container_name: None,
        depends_on: [(
            "db".to_owned(),
            Dependency {
                condition: Condition::ServiceHealthy,
                restart: true,
                required: true,
            },
        )]
        .into(),
        healthcheck: Some(Healthcheck {
            test: Some(HealthTest::CmdShell("curl x".into())),
            interval: Some(Duration::from_secs(5)),
            timeout: None,
            retries: Some(2),
            start_period: Some(Duration::from_mins(1)),
            start_interval: Some(Duration::from_secs(1)),
            probe: None,
            restart: false,
        }),
        restart: Restart::OnFailure { max_retries: Some(3) },
        replicas: 1,
        resources: Resources {
            memory: Some(64 << 20),
            memory_reservation: None,
            memory_swap: Some(-1),
            cpus_milli: Some(1500),
            cpu_shares: Some(512),
            cpuset: Some("0-1".into()),
            pids: Some(99),
            ..Resources::default()
        },
        read_only: true,
        cap_add: vec!["NET_ADMIN".into(), "SYS_PTRACE".into()],
        cap_drop: vec!["ALL".into()],
        privileged: false,
        init: true,
        tty: true,
        stdin_open: true,
        group_add: vec!["audio".into(), "44".into()],
        sysctls: [("net.core.somaxconn".to_owned(), "1024".to_owned())].into(),
        ulimits: [
            (
                "nproc".to_owned(),
                Ulimit {
                    soft: 65535,
                    hard: 65535,
                },
            ),
            ("nofile".to_owned(), Ulimit { soft: 1, hard: -1 }),
        ]
        .into(),
        security_opt: vec!["no-new-privileges:true".into()],
        shm_size: Some(1 << 30),
        stop_signal: Some("SIGQUIT".into()),
        stop_grace_period: Some(Duration::from_secs(90)),
        pull_policy: PullPolicy::Missing,
        profiles: vec![],
        ..Service::default()
    };
    assert_eq!(*web, expected);
    assert_eq!(
        project.networks["back"],
        Network {
            name: "full_back".into(),
            external: false,
            internal: true,
            enable_ipv6: true,
            ipam: vec![IpamPool {
                subnet: Some("10.9.0.0/24".into()),
                ip_range: Some("10.9.0.128/25".into()),
                gateway: Some([10, 9, 0, 1].into()),
                ..IpamPool::default()
            }],
            labels: [("x".to_owned(), "y".to_owned())].into(),
            ..Network::default()
        }
    );
    assert_eq!(project.networks["default"].name, "full_default");
    assert_eq!(project.volumes["data"].name, "full_data");
    assert_eq!(project.volumes["data"].labels["v"], "1");
}

#[test]
fn deploy_says_what_the_short_fields_say() {
    let deploy = service(
        "deploy: {replicas: 2, resources: {limits: {cpus: '0.5', memory: 1g, pids: 5}, reservations: {memory: 1m}}, \
         restart_policy: {condition: on-failure, max_attempts: 4}}",
    );
    assert_eq!(deploy.replicas, 2);
    assert_eq!(deploy.restart, Restart::OnFailure { max_retries: Some(4) });
    assert_eq!(deploy.resources.cpus_milli, Some(500));
    assert_eq!(deploy.resources.memory, Some(1 << 30));
    assert_eq!(deploy.resources.memory_reservation, Some(1 << 20));
    assert_eq!(deploy.resources.pids, Some(5));
    for (text, restart) in [
        ("restart: always", Restart::Always),
        ("restart: unless-stopped", Restart::UnlessStopped),
        ("restart: 'no'", Restart::No),
        ("deploy: {restart_policy: {condition: none}}", Restart::No),
        ("deploy: {restart_policy: {}}", Restart::UnlessStopped),
    ] {
        assert_eq!(service(text).restart, restart, "{text}");
    }
}

#[test]
fn commands_can_be_cleared_or_left_to_the_image() {
    assert_eq!(service("").command, None);
    assert_eq!(service("command:").command, None);
    assert_eq!(service("command: []").command, Some(vec![]));
    assert_eq!(service("entrypoint: ''").entrypoint, Some(vec![]));
    assert_eq!(
        service("healthcheck: {disable: true}").healthcheck.unwrap().test,
        Some(HealthTest::None)
    );
    assert_eq!(
        service("healthcheck: {test: [NONE]}").healthcheck.unwrap().test,
        Some(HealthTest::None)
    );
    assert_eq!(service("healthcheck: {test: []}").healthcheck, None);
    assert_eq!(
        service("healthcheck: {test: [CMD, a, b]}")
            .healthcheck
            .unwrap()
            .test,
        Some(HealthTest::Cmd(vec!["a".into(), "b".into()]))
    );
}

#[test]
fn network_modes() {
    assert_eq!(service("network_mode: none").network_mode, NetworkMode::None);
    assert_eq!(service("network_mode: host").networks.len(), 0);
    let project = loaded("services: {a: {image: i, network_mode: 'service:b'}, b: {image: i}}").project;
    assert_eq!(
        project.services["a"].network_mode,
        NetworkMode::Service("b".into())
    );
    assert!(project.services["a"].depends_on["b"].restart, "implied");
    assert_eq!(
        service("network_mode: 'container:x'").network_mode,
        NetworkMode::Container("x".into())
    );
    assert!(complaint("network_mode: elsewhere").contains("is not supported"));
    assert!(complaint("network_mode: 'service:a'").contains("dependency cycle detected: a -> a"));
    assert!(complaint("network_mode: 'service:c'").contains("depends on undefined service \"c\""));
    assert!(complaint("network_mode: host\nports: ['80:80']").contains("cannot be published"));
    let both = complaints("services: {a: {image: i, network_mode: host, networks: [n]}}\nnetworks: {n: }");
    assert!(
        both.len() == 1 && both[0].contains("mutually exclusive"),
        "{both:?}"
    );
}

#[test]
fn what_cannot_be_run_is_refused_and_config_shows_it() {
    for fields in [
        "runtime: kata\ninit: true",
        "userns_mode: keep-id",
        "logging: {driver: gelf}",
        "isolation: process",
        "credential_spec: {file: f.json}",
        "cpu_count: 2",
        "privileged: true\ncpu_percent: 50",
        "deploy: {mode: global}",
        "deploy: {placement: {constraints: [node.role==worker]}}",
        "platform: linux/s390x",
        "ports: [80/sctp]",
        "volumes: [{type: cluster, source: x, target: /x}]",
    ] {
        let mut text =
            "secrets: {s: {file: s}}\nconfigs: {s: {file: s}}\nservices:\n  a:\n    image: i\n".to_owned();
        for line in fields.lines() {
            let _ = writeln!(text, "    {line}");
        }
        let diagnostics = refusals(&text);
        let errors: Vec<_> = diagnostics
            .iter()
            .filter(|d| d.severity == Severity::Error)
            .collect();
        assert_eq!(errors.len(), 1, "{fields}: {errors:#?}");
        assert_eq!(errors[0].code, Code::Unsupported, "{fields}: {errors:#?}");
        assert!(errors[0].origin.as_ref().unwrap().line > 3, "{fields}");
        let shown = load_model(
            &request(&[]),
            Rules::default(),
            &files(&[("compose.yaml", &text)]),
        );
        assert!(shown.is_ok(), "{fields}: {:?}", shown.err());
    }
    // One refusal does not hide the others, nor the errors beside it.
    let both = complaints(
        "services:\n  a:\n    cpu_count: 2\n    isolation: hyperv\n    image: i\n    restart: sometimes\n",
    );
    assert_eq!(
        both,
        [
            "3:5 services.a.cpu_count is not supported: it is for Windows containers",
            "4:5 services.a.isolation: \"hyperv\" is not supported: it is for Windows containers",
            "6:14 services.a.restart: invalid restart policy \"sometimes\"",
        ]
    );
    // Values that say nothing are not refused.
    service("attach: true\noom_kill_disable: false\nlogging: {}\ndns: []");
}

#[test]
fn errors_point_at_their_place_and_say_what_to_do() {
    let text = "\
services:
  web:
    imagee: nginx
    image: nginx
    prots: []
    networks: [fornt]
  db:
    image: 5
    depends_on: [wbe]
  ok:
    image: i
    networks: [fornt]
    depends_on: [wb]
networks:
  front:
";
    assert_eq!(
        complaints(text),
        [
            "3:5 services.web additional properties 'imagee' not allowed",
            "5:5 services.web additional properties 'prots' not allowed",
            "6:16 service \"web\" refers to undefined network fornt: invalid compose project",
            "8:12 services.db.image must be a string",
            "12:16 service \"ok\" refers to undefined network fornt: invalid compose project",
            "13:18 service \"ok\" depends on undefined service \"wb\": invalid compose project",
        ]
    );
    let hints: Vec<_> = refusals(text)
        .into_iter()
        .map(|d| d.hint.unwrap_or_default())
        .collect();
    assert_eq!(
        hints,
        [
            "did you mean `image`?",
            "did you mean `ports`?",
            "did you mean `front`?",
            "put the value in quotes",
            "did you mean `front`?",
            "did you mean `web`?",
        ]
    );
    let rendered = refusals(text)[0].render(false);
    assert!(rendered.contains(" --> compose.yaml:3:5\n"), "{rendered}");
    assert!(rendered.contains("    imagee: nginx\n"), "{rendered}");
}

#[test]
fn bad_yaml_is_explained() {
    for (text, message) in [
        (
            "services:\n\tweb:\n",
            "2:1 failed to parse compose.yaml: line 2: found a tab character that violates indentation",
        ),
        (
            "services:\n  a: &x\n    image: i\n    image: j\n",
            "4:5 failed to parse compose.yaml: line 4: mapping key \"image\" already defined at line 3",
        ),
        ("- a\n", "1:1 top-level object must be a mapping"),
        (
            "services:\n  1: {}\n",
            "2:3 failed to parse compose.yaml: non-string key in services: 1",
        ),
        (
            "true: x\n",
            "1:1 failed to parse compose.yaml: non-string key at top level: true",
        ),
        (
            "x: &a\n  y: *a\n",
            "2:6 failed to parse compose.yaml: cycle detected: node at path x.y references node at path x",
        ),
        ("include: x.yaml\n", "1:10 `include` must be a list"),
        ("", "empty compose file: /p/compose.yaml"),
        ("# nothing\n", "empty compose file: /p/compose.yaml"),
        (
            "x: &a 1\nservices: {<<: *a}\n",
            "2:16 failed to parse compose.yaml: yaml: map merge requires map or sequence of maps as the value",
        ),
    ] {
        assert_eq!(complaints(text), [message], "{text:?}");
    }
    let deep = format!("x: {}{}", "[".repeat(200), "]".repeat(200));
    assert!(
        complaints(&deep)[0].contains("nested deeper"),
        "{:?}",
        complaints(&deep)
    );
    // Depth does not add up through anchors either.
    let mut stacked = "x0: &a0 [v]\n".to_owned();
    for level in 1..60 {
        let _ = writeln!(
            stacked,
            "x{level}: &a{level} {}*a{}{}",
            "[".repeat(50),
            level - 1,
            "]".repeat(50)
        );
    }
    assert!(
        complaints(&stacked)[0].contains("nested deeper"),
        "{:?}",
        complaints(&stacked)
    );
    let latin = MemoryFiles([(PathBuf::from("/p/compose.yaml"), b"a: b\nx: \xff".to_vec())].into());
    let failure = load(&request(&[]), &latin).unwrap_err();
    assert_eq!(
        failure.to_string(),
        "failed to parse compose.yaml: line 2: not UTF-8 text"
    );
}

#[test]
fn alias_bombs_are_defused() {
    let mut text = "x0: &a0 {k: v}\n".to_owned();
    for level in 1..12 {
        let earlier = vec![format!("*a{}", level - 1); 9].join(", ");
        let _ = writeln!(text, "x{level}: &a{level} [{earlier}]");
    }
    assert!(complaints(&text)[0].contains("exceeds maximum node visit limit"));
}

#[test]
fn values_are_checked() {
    for (fields, message) in [
        ("mem_limit: 5x", "invalid size: '5x'"),
        ("stop_grace_period: 5", "stop_grace_period must be a string"),
        ("stop_grace_period: '5'", "invalid duration \"5\""),
        ("ports: ['x:80']", "invalid hostPort: x"),
        ("ports: [{target: 0}]", "a target port from 1 to 65535 is needed"),
        ("ports: [{target: 80, host_ip: x}]", "invalid ip address: x"),
        ("ports: ['8080:80']\nscale: 2", "2 containers cannot share"),
        ("volumes: ['aa:bb:cc:dd']", "too many colons"),
        ("volumes: ['/x:rel']", "must be an absolute path"),
        (
            "volumes: [{type: bind, target: /x}]",
            "field Source must not be empty",
        ),
        (
            "volumes: ['/a:/x']\ntmpfs: [/x]",
            "target /x already mounted as services.a.tmpfs[0]",
        ),
        ("environment: [\"A =b\"]", "declared with a trailing space"),
        ("container_name: '-x'", "does not match pattern"),
        ("container_name: xx\nscale: 2", "container name must be unique"),
        (
            "scale: 2\ndeploy: {replicas: 3}",
            "can't set distinct values on 'scale' and 'deploy.replicas'",
        ),
        (
            "cpus: 1\ndeploy: {resources: {limits: {cpus: '2'}}}",
            "can't set distinct values on 'cpus'",
        ),
        ("scale: -1", "scale: must be greater than or equal to 0"),
        ("restart: sometimes", "invalid restart policy \"sometimes\""),
        ("cap_add: [NET_ADMN]", "unknown capability \"NET_ADMN\""),
        ("ulimits: {nofil: 5}", "unknown limit"),
        (
            "ulimits: {nofile: {soft: 5}}",
            "ulimits.nofile missing property 'hard'",
        ),
        (
            "ulimits: {nofile: {soft: 5, hard: 4}}",
            "must not be more than the hard one",
        ),
        ("stop_signal: SIGFOO", "unknown signal"),
        ("cpuset: 2-1", "invalid list of processors"),
        ("memswap_limit: 5m", "needs mem_limit"),
        (
            "mem_limit: 5m\nmemswap_limit: 4m",
            "must not be less than mem_limit",
        ),
        (
            "mem_limit: 5m\nmem_reservation: 6m",
            "must not be more than the memory limit",
        ),
        ("healthcheck: {test: [curl]}", "must start either by"),
        (
            "healthcheck: {start_interval: 5s}",
            "requires healthcheck.start_period",
        ),
        ("healthcheck: {test: [CMD]}", "a program must follow CMD"),
        ("labels: {com.docker.compose.project: x}", "is reserved"),
        (
            "networks: {default: {ipv4_address: 1.2.3}}",
            "invalid address: 1.2.3",
        ),
        (
            "networks: {default: {ipv4_address: 10.0.0.9}}",
            "is in no subnet of network default",
        ),
        ("command: \"a 'b\"", "invalid command line string"),
        ("depends_on: {a: {}}", "missing property 'condition'"),
        ("privileged: maybe", "invalid boolean: maybe"),
        ("security_opt: [a, a]", "items at 0 and 1 are equal"),
        ("tmpfs: '/x:bogus'", "invalid tmpfs option \"bogus\""),
        ("extra_hosts: [h]", "missing IP: h"),
        (
            "depends_on: {a: {condition: service_helthy}}",
            "value must be one of",
        ),
        ("volumes: [nope:/x]", "refers to undefined volume nope"),
        ("env_file: gone.env", "env file /p/gone.env not found"),
        ("replicas: 2", "additional properties 'replicas' not allowed"),
    ] {
        let text = format!(
            "services:\n  a:\n    image: i\n    {}\n",
            fields.replace('\n', "\n    ")
        );
        let complaints = complaints(&text);
        assert_eq!(complaints.len(), 1, "{fields}: {complaints:#?}");
        assert!(complaints[0].contains(message), "{fields}: {complaints:#?}");
    }
}

#[test]
fn an_image_is_needed() {
    for text in [
        "services: {a: {}}",
        "services: {a: {image: ''}}",
        "services:\n  a: {hostname: h}",
    ] {
        let complaints = complaints(text);
        assert_eq!(complaints.len(), 1, "{text}: {complaints:#?}");
        assert!(complaints[0].ends_with(
            "service \"a\" has neither an image nor a build context specified: invalid compose project"
        ));
    }
    let null = complaints("services:\n  a:\n  b: {image: }");
    assert_eq!(
        null,
        [
            "2:3 services.a must be a mapping",
            "3:7 services.b.image must be a string"
        ]
    );
}

#[test]
fn resources_are_checked() {
    for (text, message) in [
        ("networks: {n: {driver: overlay}}", "\"overlay\" is not supported"),
        (
            "networks: {n: {ipam: {config: [{subnet: 1.2.3}]}}}",
            "invalid subnet",
        ),
        (
            "networks: {n: {ipam: {config: [{subnet: 10.0.0.0/24, gateway: 10.0.1.1}]}}}",
            "must be inside the subnet",
        ),
        (
            "networks: {n: {external: true, internal: true}}",
            "conflicting parameters \"external\" and \"internal\"",
        ),
        ("networks: {n: {name: ../x}}", "invalid name \"../x\""),
        ("volumes: {vol: {driver: nfs}}", "\"nfs\" is not supported"),
        (
            "volumes: {vol: {driver_opts: {o: x}}}",
            "volumes.vol.driver_opts: missing required option: \"device\"",
        ),
        (
            "volumes: {vol: {external: true, driver: local}}",
            "conflicting parameters \"external\" and \"driver\"",
        ),
        ("volumes: {vol: {name: a/b}}", "invalid name"),
        ("volumes: {'a b': {}}", "additional properties 'a b' not allowed"),
    ] {
        let base = "services: {a: {image: i, networks: [n], volumes: ['vol:/v']}}\n";
        let other = if text.starts_with("networks") {
            "volumes: {vol: }"
        } else {
            "networks: {n: }"
        };
        let text = if text.contains("'a b'") {
            format!("services: {{a: {{image: i, networks: [n]}}}}\n{other}\n{text}\n")
        } else {
            format!("{base}{other}\n{text}\n")
        };
        let complaints = complaints(&text);
        assert_eq!(complaints.len(), 1, "{text}: {complaints:#?}");
        assert!(complaints[0].contains(message), "{text}: {complaints:#?}");
    }
}

#[test]
fn variables_come_in_their_order() {
    let text =
        "services: {a: {image: 'i:${V}', environment: {P: $COMPOSE_PROJECT_NAME, HOMELESS: , W: '${W:-d}'}}}";
    let list = [
        ("compose.yaml", text),
        (".env", "V=file\nW=w\nHOMELESS=h\nCOMPOSE_PROJECT_NAME=fromenv\n"),
        ("other.env", "V=other\n"),
    ];
    let mut ask = request(&[]);
    let image = |ask: &LoadRequest| {
        let project = load(ask, &files(&list)).unwrap().project;
        (project.name.clone(), project.services["a"].clone())
    };
    let (name, a) = image(&ask);
    assert_eq!((name.as_str(), a.image.as_str()), ("fromenv", "i:file"));
    assert_eq!(a.environment["P"], "fromenv");
    assert_eq!(
        (a.environment["W"].as_str(), a.environment["HOMELESS"].as_str()),
        ("w", "h")
    );
    ask.environment.insert("V".into(), "shell".into());
    assert_eq!(image(&ask).1.image, "i:shell");
    ask.environment.clear();
    ask.env_files = vec!["other.env".into()];
    let (name, a) = image(&ask);
    assert_eq!((name.as_str(), a.image.as_str()), ("p", "i:other"));
    assert_eq!(a.environment.get("HOMELESS"), None);
    ask.env_files.clear();
    ask.environment
        .insert("COMPOSE_ENV_FILES".into(), "other.env".into());
    assert_eq!(image(&ask).1.image, "i:other");
    ask.environment = [("COMPOSE_DISABLE_ENV_FILE".to_owned(), "true".to_owned())].into();
    let loaded = load(&ask, &files(&list)).unwrap();
    assert_eq!(loaded.project.services["a"].image, "i:");
    let warnings: Vec<_> = loaded
        .warnings
        .iter()
        .map(|warning| warning.message.as_str())
        .collect();
    assert_eq!(
        warnings,
        ["The \"V\" variable is not set. Defaulting to a blank string."]
    );
}

#[test]
fn missing_required_variables_are_errors() {
    assert_eq!(
        complaints("services:\n  a:\n    image: ${H:?set H}\n    labels: {x: '${'}"),
        [
            "3:12 error while interpolating services.a.image: required variable H is missing a value: set H",
            "4:17 invalid interpolation format for services.a.labels.x.\n\
             You may need to escape any $ with another $.\n${",
        ]
    );
}

#[test]
fn env_files_fill_the_environment() {
    let text = "services: {a: {image: i, env_file: [one.env, {path: two.env}, {path: gone.env, required: false}, \
                {path: raw.env, format: raw}], environment: [A=own, OUT]}}";
    let list = [
        ("compose.yaml", text),
        ("one.env", "A=1\nB=1\nC=${A}x\n"),
        ("two.env", "B=2\nD=$B\n"),
        ("raw.env", "R='$A'\n"),
    ];
    let a = try_load(&list).unwrap().project.services["a"].environment.clone();
    let a: Vec<_> = a.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(a, ["A=own", "B=2", "C=ownx", "D=2", "R='$A'"]);
    let inputs = try_load(&list).unwrap().project.inputs;
    for file in ["one.env", "two.env", "raw.env", "gone.env"] {
        assert!(inputs.contains(&Path::new("/p").join(file)), "{file}");
    }
}

#[test]
fn files_are_found_and_merged() {
    let list = [
        (
            "compose.yaml",
            "services: {a: {image: i, ports: ['80:80'], environment: {A: 1, B: 1}, command: [x, y]}}",
        ),
        (
            "compose.override.yaml",
            "services: {a: {ports: ['80:80', '81:81'], environment: [B=2], command: z}, b: {image: j}}",
        ),
        (
            "compose.prod.yaml",
            "services: {a: {ports: !override ['90:90'], environment: {A: !reset null}}}",
        ),
        ("sub/deeper/x", ""),
    ];
    let mut ask = request(&[]);
    ask.cwd = "/p/sub/deeper".into();
    let found = load(&ask, &files(&list)).unwrap().project;
    assert_eq!(found.name, "p");
    assert_eq!(found.working_dir, Path::new("/p"));
    assert_eq!(found.services.len(), 2);
    let a = &found.services["a"];
    assert_eq!(
        a.ports.iter().map(|port| port.target).collect::<Vec<_>>(),
        [80, 81]
    );
    assert_eq!(a.environment["B"], "2");
    assert_eq!(a.command.as_deref(), Some(&["z".to_owned()][..]));
    assert_eq!(
        found.origin("services.a.command").unwrap().file,
        Path::new("/p/compose.override.yaml")
    );
    ask.cwd = "/p".into();
    ask.files = vec!["compose.yaml".into(), "compose.prod.yaml".into()];
    let a = load(&ask, &files(&list)).unwrap().project.services["a"].clone();
    assert_eq!(a.ports.iter().map(|port| port.target).collect::<Vec<_>>(), [90]);
    assert_eq!(a.environment.keys().collect::<Vec<_>>(), ["B"]);
    ask.files.clear();
    ask.environment = [("COMPOSE_FILE", "compose.yaml:compose.prod.yaml")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    assert_eq!(load(&ask, &files(&list)).unwrap().project.config_files.len(), 2);
    let nothing = load(&request(&[]), &MemoryFiles::default()).unwrap_err();
    assert!(
        nothing
            .to_string()
            .starts_with("no configuration file provided: not found")
    );
    assert!(nothing.inputs.contains(&"/p/compose.yaml".into()));
    let both = [list[0], ("compose.yml", "services: {}")];
    let warnings = try_load(&both).unwrap().warnings;
    assert!(
        warnings[0].message.starts_with("Found multiple config files"),
        "{warnings:?}"
    );
}

#[test]
fn standard_input_and_documents() {
    let mut ask = request(&[]);
    ask.files = vec!["-".into()];
    ask.stdin = Some("services: {a: {image: i}}\n---\nservices: {a: {image: j}}\n".into());
    let project = load(&ask, &MemoryFiles::default()).unwrap().project;
    assert_eq!(project.services["a"].image, "j");
    assert_eq!(project.config_files, Vec::<PathBuf>::new());
    let json = serde_json::to_string(&ask).unwrap();
    assert_eq!(serde_json::from_str::<LoadRequest>(&json).unwrap(), ask);
}

#[test]
fn a_failed_load_still_names_its_inputs() {
    let list = [
        (
            "compose.yaml",
            "services: {a: {image: i, env_file: e.env, ports: 5}}",
        ),
        ("e.env", "A=${"),
    ];
    let failure = try_load(&list).unwrap_err();
    assert!(
        failure.inputs.contains(&"/p/e.env".into()),
        "{:?}",
        failure.inputs
    );
    assert!(failure.inputs.contains(&"/p/compose.yaml".into()));
    assert!(failure.inputs.contains(&"/p/compose.override.yml".into()));
    assert_eq!(failure.diagnostics.len(), 2, "{:#?}", failure.diagnostics);
}

#[test]
fn names() {
    let named = |files_: &[(&str, &str)], given: Option<&str>| {
        let ask = LoadRequest {
            project_name: given.map(str::to_owned),
            ..request(&[])
        };
        load(&ask, &files(files_))
            .map(|loaded| loaded.project.name)
            .map_err(|failure| failure.to_string())
    };
    let plain = [("compose.yaml", "services: {a: {image: i}}")];
    let titled = [("compose.yaml", "name: My-App\nservices: {a: {image: i}}")];
    assert_eq!(named(&plain, None).unwrap(), "p");
    assert_eq!(named(&titled, None).unwrap(), "my-app");
    assert_eq!(named(&titled, Some("x")).unwrap(), "x");
    assert!(
        named(&plain, Some("X"))
            .unwrap_err()
            .starts_with("invalid project name \"X\": must consist only")
    );
    let mut ask = request(&[]);
    ask.cwd = "/".into();
    ask.files = vec!["/p/compose.yaml".into()];
    ask.project_directory = Some("/".into());
    let failure = load(&ask, &files(&plain)).unwrap_err();
    assert_eq!(failure.to_string(), "project name must not be empty");
}

#[test]
fn profiles_switch_services() {
    let text = "services:
  a: {image: i, depends_on: {b: {condition: service_started, required: false}}}
  b: {image: i, profiles: [p, q]}
  c: {image: i, profiles: [r], depends_on: [b]}
volumes: {v: }";
    let run = |profiles: &[&str], services: &[&str]| {
        let ask = LoadRequest {
            profiles: profiles.iter().map(|&p| p.to_owned()).collect(),
            services: services.iter().map(|&s| s.to_owned()).collect(),
            ..request(&[])
        };
        load(&ask, &files(&[("compose.yaml", text)]))
    };
    let project = run(&[], &[]).unwrap().project;
    assert_eq!(project.services.keys().collect::<Vec<_>>(), ["a"]);
    assert!(project.services["a"].depends_on.is_empty());
    assert_eq!(project.disabled_services["b"], ["p", "q"]);
    assert!(project.volumes.is_empty(), "not used");
    assert_eq!(run(&["p"], &[]).unwrap().project.services.len(), 2);
    assert_eq!(run(&["*"], &[]).unwrap().project.services.len(), 3);
    assert_eq!(run(&[], &["b"]).unwrap().project.services.len(), 2);
    assert_eq!(run(&["*"], &[]).unwrap().model.profiles, ["p", "q", "r"]);
    let refused = run(&["r"], &[]).unwrap_err().to_string();
    assert!(
        refused.contains("service b is required by c but is disabled. Can be enabled by profiles [p q]"),
        "{refused}"
    );
    assert!(
        run(&[], &["z"])
            .unwrap_err()
            .to_string()
            .contains("no such service: z")
    );
}

#[test]
fn extends_and_include() {
    let list = [
        (
            "compose.yaml",
            "include: [inc/compose.yaml]
services:
  a: {extends: {service: base, file: lib/base.yaml}, environment: [B=a], depends_on: [inner]}
  b: {extends: a, image: j}",
        ),
        (
            "lib/base.yaml",
            "services:
  base: {extends: root, environment: {A: base, B: base}, volumes: ['./d:/d']}
  root: {image: i, env_file: r.env, labels: {x: '1'}}",
        ),
        ("lib/r.env", "R=r\n"),
        (
            "inc/compose.yaml",
            "services: {inner: {image: 'k:${TAG}', volumes: ['./e:/e']}}",
        ),
        ("inc/.env", "TAG=t\n"),
    ];
    let project = try_load(&list)
        .unwrap_or_else(|failure| panic!("{failure}"))
        .project;
    let a = &project.services["a"];
    assert_eq!(a.image, "i");
    let environment: Vec<_> = a.environment.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(environment, ["A=base", "B=a", "R=r"]);
    assert!(matches!(&a.volumes[0].source, MountSource::Bind { path, .. } if path == Path::new("/p/lib/d")));
    let b = &project.services["b"];
    assert_eq!((b.image.as_str(), b.labels["x"].as_str()), ("j", "1"));
    let inner = &project.services["inner"];
    assert_eq!(inner.image, "k:t");
    assert!(
        matches!(&inner.volumes[0].source, MountSource::Bind { path, .. } if path == Path::new("/p/inc/e"))
    );
    for file in ["lib/base.yaml", "lib/r.env", "inc/compose.yaml", "inc/.env"] {
        assert!(project.inputs.contains(&Path::new("/p").join(file)), "{file}");
    }
    let cycle = complaints("services: {a: {extends: b}, b: {extends: a}}");
    assert!(
        cycle[0].contains("Circular reference: a in compose.yaml extends b"),
        "{cycle:?}"
    );
    let missing = complaints("services: {a: {extends: z}}");
    assert!(missing[0].contains("cannot extend service \"a\" in compose.yaml: service \"z\" not found"));
    let list = [
        ("compose.yaml", "include: [x.yaml]"),
        ("x.yaml", "include: [compose.yaml]\nservices: {a: {image: i}}"),
    ];
    let failure = try_load(&list).unwrap_err().to_string();
    assert!(
        failure.contains("include cycle detected:\n/p/compose.yaml\n include /p/x.yaml"),
        "{failure}"
    );
}

#[test]
fn origins_lead_to_the_line() {
    let project = loaded("services:\n  a:\n    image: i\n    mem_limit: 1g\n    environment:\n      A: x\n    ports:\n      - 80\n").project;
    let at = |path: &str| {
        project
            .origin(path)
            .map(|origin| (origin.line, origin.column))
            .unwrap()
    };
    assert_eq!(at("services.a"), (2, 3));
    assert_eq!(at("services.a.image"), (3, 12));
    assert_eq!(at("services.a.resources.memory"), (4, 16));
    assert_eq!(at("services.a.environment.A"), (6, 10));
    assert_eq!(at("services.a.ports"), (7, 5));
    assert_eq!(at("services.a.nothing.such"), (2, 3));
}

#[test]
fn origins_know_what_brought_their_file_in() {
    let list = [
        ("compose.yaml", "include: [i.yaml]\nservices: {a: {image: x}}\n"),
        (
            "i.yaml",
            "services:\n  b:\n    extends: {file: e.yaml, service: c}\n    user: u\n",
        ),
        ("e.yaml", "services:\n  c:\n    image: x\n"),
    ];
    let project = try_load(&list).unwrap().project;
    let at = |path: &str| project.origin(path).unwrap().describe();
    assert_eq!(at("services.a.image"), "compose.yaml:2:23");
    assert_eq!(
        at("services.b.user"),
        "i.yaml:4:11, brought in at compose.yaml:1:11"
    );
    assert_eq!(
        at("services.b.image"),
        "e.yaml:3:12, brought in at i.yaml:3:14, brought in at compose.yaml:1:11"
    );
}

#[test]
fn config_prints_what_it_can_load_again() {
    let text = "services:\n  a:\n    image: i\n    command: echo $$HOME\n    x-own: {b: 1}\n    ports: ['8080:80']\n    deploy: {replicas: 0}\n    environment: {Z: , A: '1'}\nx-top: 5\n";
    let model = loaded(text).model;
    let yaml = config::yaml(&model).unwrap();
    assert_eq!(
        yaml,
        "name: p
services:
  a:
    command:
      - echo
      - $$HOME
    deploy:
      replicas: 0
    environment:
      A: \"1\"
      Z: null
    image: i
    networks:
      default: null
    ports:
      - mode: ingress
        target: 80
        published: \"8080\"
        protocol: tcp
    x-own:
      b: 1
networks:
  default:
    name: p_default
x-top: 5
"
    );
    let again = loaded(&yaml);
    assert_eq!(config::yaml(&again.model).unwrap(), yaml);
    let json: serde_json::Value = serde_json::from_str(&config::json(&model).unwrap()).unwrap();
    assert_eq!(json["services"]["a"]["entrypoint"], serde_json::Value::Null);
    assert_eq!(
        json["services"]["a"]["deploy"]["placement"],
        serde_json::json!({})
    );
}

#[test]
fn the_hash_sees_what_matters() {
    let base = hash(&service("environment: {A: '1'}"));
    assert_eq!(base.len(), 64);
    assert_eq!(
        base,
        hash(&service(
            "environment: [A=1]\nscale: 3\npull_policy: always\nprofiles: []"
        ))
    );
    assert_ne!(base, hash(&service("environment: {A: '2'}")));
    assert_ne!(base, hash(&service("environment: {A: '1'}\nhostname: h")));
}

#[test]
fn the_schema_file_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/compose.schema.json");
    let mut text = serde_json::to_string_pretty(&crate::stack::json_schema()).unwrap();
    text.push('\n');
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stored == text,
        "run the test with UPDATE_SCHEMA=1 to write {}",
        path.display()
    );
}

#[test]
fn loading_is_linear() {
    let stack = |services: usize| {
        let mut text =
            "x-base: &base {restart: always, environment: {A: '1', B: '${V:-x}'}}\nservices:\n".to_owned();
        for n in 0..services {
            let _ = write!(
                text,
                "  s{n}:\n    <<: *base\n    image: i:{n}\n    ports: ['{}:80']\n    depends_on: [s{}]\n",
                n % 60_000 + 1,
                n + 1
            );
        }
        let _ = writeln!(text, "  s{services}: {{image: i}}");
        text
    };
    let time = |text: &str| {
        let start = std::time::Instant::now();
        assert!(!loaded(text).project.services.is_empty());
        start.elapsed()
    };
    let (small, large) = (stack(500), stack(5000));
    time(&small);
    let (one, ten) = (time(&small), time(&large));
    println!("500 services: {one:?}, 5000: {ten:?}");
    // Quadratic would be a hundred times as long.
    assert!(ten < one * 40, "500 services: {one:?}, 5000: {ten:?}");
}

/// Text that looks like a stack file, more or less.
fn almost_a_stack() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "services:\n",
        "  a:\n",
        "  b:\n",
        "    image: i\n",
        "    ports:\n",
        "      - ",
        "80:80\n",
        "    <<: *x\n",
        "x-a: &x\n",
        "{",
        "}",
        "[",
        "]",
        ": ",
        ", ",
        "&x ",
        "*x",
        "!reset ",
        "!override ",
        "${V",
        ":-d}",
        "$$",
        "\"",
        "'",
        "\n",
        "    environment:\n",
        "      A: 1\n",
        "    depends_on: [b]\n",
        "    volumes: ['a:/b']\n",
        "networks:\n",
        "volumes:\n",
        "null",
        "true",
        "-1",
        "1.5",
        "\t",
        "---\n",
        "    extends: a\n",
        "#",
        "| \n",
        "    deploy: {replicas: 2}\n",
        "    healthcheck: {test: x}\n",
        "    build: .\n",
        "é",
        "\u{0}",
        "include: [x]\n",
        "    tmpfs: /x\n",
        "    ulimits: {nofile: 1}\n",
        "    extra_hosts: {a: b}\n",
        "      - type: bind\n",
    ]);
    prop::collection::vec(words, 0..40).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_text_panics_the_loader(text in almost_a_stack()) {
        if let Ok(loaded) = try_load(&[("compose.yaml", &text)]) {
            // What is printed is a stack again, and the same one.
            let yaml = config::yaml(&loaded.model).unwrap();
            let again = try_load(&[("compose.yaml", &yaml)]).unwrap_or_else(|failure| panic!("{failure}\n{yaml}"));
            prop_assert_eq!(again.project.services, loaded.project.services);
        }
    }

    #[test]
    fn no_bytes_panic_the_loader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let memory = MemoryFiles([(PathBuf::from("/p/compose.yaml"), bytes)].into());
        let _ = load(&request(&[]), &memory);
    }

    #[test]
    fn merging_is_associative(values in prop::collection::vec((0..3_u8, 0..4_u8, 0..3_u8), 3)) {
        // For mappings, scalars and keyed lists: (a + b) + c = a + (b + c),
        // where b + c is what `extends` makes of them.
        let fields = |(label, variable, port): &(u8, u8, u8)| {
            format!(
                "labels: {{l{label}: 'v{variable}'}}, environment: [E{variable}={label}], \
                 hostname: h{port}, cap_add: [CHOWN, {}], expose: ['{}']",
                ["KILL", "SETUID", "SETGID"][usize::from(*label)],
                port + 1
            )
        };
        let [a, b, c] = [fields(&values[0]), fields(&values[1]), fields(&values[2])];
        let flat = [
            ("compose.yaml", format!("services: {{s: {{image: i, {a}}}}}")),
            ("b.yaml", format!("services: {{s: {{{b}}}}}")),
            ("c.yaml", format!("services: {{s: {{{c}}}}}")),
        ];
        let nested = [
            ("compose.yaml", format!("services: {{s: {{image: i, {a}}}}}")),
            ("b.yaml", format!("services: {{t: {{{b}}}, s: {{extends: t, {c}}}, t2: {{image: i}}}}").replace("t: {", "t: {profiles: [off], image: i, ")),
            ("c.yaml", "services: {}".to_owned()),
        ];
        let run = |list: &[(&str, String)]| {
            let list: Vec<_> = list.iter().map(|(name, text)| (*name, text.as_str())).collect();
            let ask = LoadRequest {
                files: list.iter().map(|(name, _)| (*name).into()).collect(),
                profiles: vec!["*".into()],
                ..request(&[])
            };
            load(&ask, &files(&list)).unwrap_or_else(|failure| panic!("{failure}")).project.services["s"].clone()
        };
        let (flat, mut nested) = (run(&flat), run(&nested));
        nested.profiles.clear();
        prop_assert_eq!(flat, nested);
    }
}
